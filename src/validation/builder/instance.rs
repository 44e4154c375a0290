//! One judged process tree: sockets, start, end.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};
use tokio::net::unix::pipe;

use super::Infrastructure;
use super::confine::{self, Exec};
use super::job::Subject;
use super::notify::PutOff;
use super::state;
use super::tree::{LOOK, collect, end_all_others, environment, machine_paths};
use crate::config::StopMode;
use crate::http::Address;
use crate::validation::checks::{InstanceSpec, ListenKind, ReadinessProbe};

/// How long the output of an ended instance may take to come to its end: it is in the pipe already, but a process that
/// outlived the first one may hold the pipe open.
const OUTPUT_END: Duration = Duration::from_millis(200);

/// How long after the last answer the instance must still run: a crash may come after the answer, and so may the end of
/// a process that has left a child to serve.
pub(crate) const AFTERMATH: Duration = Duration::from_millis(300);

/// A process tree in its Landlock domain. Dropping it ends every process but the judge.
#[derive(Debug)]
pub(crate) struct JudgedInstance {
    main: Pid,
    ended: Option<String>,
    /// Whether there is a child of this process beside it.
    others: bool,
    /// Whether it was asked to finish.
    asked: bool,
    listeners: Vec<Listener>,
    /// The socket for `sd_notify` messages.
    pub notify: Option<UnixDatagram>,
    tail: Arc<Mutex<Vec<u8>>>,
    /// Ends with the output.
    collector: tokio::task::JoinHandle<()>,
    /// When it was started.
    pub started: Instant,
    /// The bound from the stop signal to its end.
    stop_timeout: Duration,
    /// The signal at which it finishes.
    stop_signal: Signal,
    /// Which of its processes get it.
    stop_mode: StopMode,
}

/// A socket that the instance inherited and the judge holds too.
#[derive(Debug)]
pub(crate) struct Listener {
    pub name: String,
    pub fd: OwnedFd,
    /// The address for requests; `None` for UDP.
    pub address: Option<Address>,
}

fn listen(name: &str, kind: ListenKind, sockets: &Path) -> std::io::Result<Listener> {
    let tcp = |address: SocketAddr| -> std::io::Result<(OwnedFd, Option<Address>)> {
        let listener = TcpListener::bind(address)?;
        let address = Address::Tcp(listener.local_addr()?);
        Ok((listener.into(), Some(address)))
    };
    let (fd, address) = match kind {
        ListenKind::Tcp4 => tcp(SocketAddr::from(([127, 0, 0, 1], 0)))?,
        ListenKind::Tcp6 => tcp(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0)))?,
        ListenKind::Udp4 => (UdpSocket::bind("127.0.0.1:0")?.into(), None),
        ListenKind::Udp6 => (UdpSocket::bind("[::1]:0")?.into(), None),
        ListenKind::Unix => {
            let path = sockets.join(name);
            (UnixListener::bind(&path)?.into(), Some(Address::Unix(path)))
        }
    };
    Ok(Listener { name: name.to_owned(), fd, address })
}

impl JudgedInstance {
    /// Starts a version, in directories of its own below `top`. `Ok(Err(reason))` is the version's own fault.
    pub(crate) async fn start(
        spec: &InstanceSpec,
        subject: &Subject,
        top: &Path,
    ) -> Result<Result<Self, String>, Infrastructure> {
        let (work, sockets) = fresh(top).map_err(Infrastructure::system("make a directory for the judged"))?;
        if let Some(state) = &subject.state {
            state::copy(state, &work).map_err(Infrastructure::system("copy validation.state"))?;
        }
        if let Err(reason) = state::prepare(spec, subject, top, &work).await? {
            return Ok(Err(reason));
        }
        let opened = spec.listen.iter().map(|one| listen(&one.name, one.kind, &sockets));
        let listeners =
            opened.collect::<std::io::Result<Vec<Listener>>>().map_err(Infrastructure::system("open a listener"))?;
        let notify = if spec.probes.contains(&ReadinessProbe::Notify) {
            let socket =
                UnixDatagram::bind(sockets.join("notify")).map_err(Infrastructure::system("open NOTIFY_SOCKET"))?;
            socket.set_nonblocking(true).map_err(Infrastructure::system("open NOTIFY_SOCKET"))?;
            Some(socket)
        } else {
            None
        };
        let stop_signal = spec.stop_signal.parse().map_err(|_| Infrastructure::Attribute {
            name: "stop_signal",
            reason: format!("{:?} is no signal", spec.stop_signal),
        })?;
        let Some((program, args)) = spec.command.split_first() else { return Ok(Err("its command is empty".into())) };
        let (reader, writer) =
            pipe2(OFlag::O_CLOEXEC).map_err(|errno| Infrastructure::system("make a pipe")(errno.into()))?;
        let exec = Exec {
            program: subject.store_path.join(program),
            args,
            env: environment(spec, subject, &work, notify.is_some().then(|| sockets.join("notify"))),
            listeners: listeners.iter().map(|listener| listener.fd.as_fd()).collect(),
            output: writer.as_fd(),
            read: &subject.closure,
            execute: &machine_paths(spec, subject, top),
            work: &work,
        };
        let main = match confine::start(&exec)? {
            Ok(main) => main,
            Err(reason) => return Ok(Err(reason)),
        };
        drop(writer);
        let tail = Arc::new(Mutex::new(Vec::new()));
        let reader =
            pipe::Receiver::from_owned_fd(reader).map_err(Infrastructure::system("read the judged's output"))?;
        let collector = tokio::spawn(collect(reader, Arc::clone(&tail)));
        let stop_timeout = Duration::from_millis(spec.stop_timeout_ms);
        Ok(Ok(Self {
            main,
            ended: None,
            others: false,
            asked: false,
            listeners,
            notify,
            tail,
            collector,
            started: Instant::now(),
            stop_timeout,
            stop_signal,
            stop_mode: spec.stop_mode,
        }))
    }

    /// A socket by its name.
    pub(crate) fn listener(&self, name: &str) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.name == name)
    }

    /// How its first process ended, once it has: `ended with exit code 0`.
    pub(crate) fn ended(&mut self) -> Option<&str> {
        // Process 1 inherits every orphan; all are reaped, one of them is the instance itself.
        let others = loop {
            let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, format!("ended with exit code {code}")),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, format!("was ended by signal {signal}")),
                Err(Errno::EINTR) => continue,
                still => break still.is_ok(),
            };
            if pid == self.main {
                self.ended = Some(how);
            }
        };
        self.others = others;
        // It went into the background, and nobody would watch it there.
        let by_itself = self.ended.as_mut().filter(|how| !self.asked && how.ends_with("exit code 0"));
        if others && let Some(how) = by_itself {
            how.push_str(" (its child process still runs: the program must stay in the foreground)");
        }
        self.ended.as_deref()
    }

    /// Waits until it has ended, however long that takes.
    pub(crate) async fn end(&mut self) -> String {
        loop {
            if let Some(how) = self.ended() {
                return how.to_owned();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks it to finish. How it ended and how long that took, or `None` when it did not in time.
    pub(crate) async fn stop(&mut self) -> Option<(String, Duration)> {
        let asked = Instant::now();
        self.asked = true;
        // Process 1 of a PID namespace reaches every process in it. Elsewhere the group stands for the tree.
        let whole = self.stop_mode == StopMode::ControlGroup && std::process::id() == 1;
        let asked_to = match self.stop_mode {
            StopMode::ControlGroup if whole => kill(Pid::from_raw(-1), self.stop_signal),
            StopMode::ControlGroup => killpg(self.main, self.stop_signal),
            StopMode::Mixed => kill(self.main, self.stop_signal),
        };
        // It may have ended by itself just now: then there is nothing to ask.
        let _ = asked_to;
        let mut until = PutOff::new(asked, self.stop_timeout);
        loop {
            if let Some(how) = self.ended().map(str::to_owned).filter(|_| !(whole && self.others)) {
                return Some((how, asked.elapsed()));
            }
            until.hear(self.notify.as_ref());
            if until.left().is_zero() {
                return None;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The signal that asks it to finish.
    pub(crate) fn stop_signal(&self) -> Signal {
        self.stop_signal
    }

    /// The end of what it printed, for a person.
    pub(crate) async fn tail(&mut self) -> Vec<String> {
        // The process may be seen to end before its last output is read.
        if self.ended().is_some() && !self.collector.is_finished() {
            let _ = tokio::time::timeout(OUTPUT_END, &mut self.collector).await;
        }
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&tail).lines().map(|line| format!("it printed: {line}")).collect()
    }
}

impl Drop for JudgedInstance {
    fn drop(&mut self) {
        end_all_others();
    }
}

/// Two new directories: a working directory that the candidate may write, and one for sockets that it may not write.
fn fresh(top: &Path) -> std::io::Result<(PathBuf, PathBuf)> {
    let mut number = 1;
    loop {
        let home = top.join(format!("judged-{number}"));
        match std::fs::create_dir(&home) {
            Ok(()) => {
                let (work, sockets) = (home.join("work"), home.join("sockets"));
                std::fs::create_dir(&work)?;
                std::fs::create_dir(&sockets)?;
                return Ok((work, sockets));
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}
