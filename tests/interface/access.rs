//! The callers that the supervisor accepts: real processes connect, as instances or as other processes.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use rei::interface::access::{Access, Proof, Refusal, RefusalReason};
use rei::interface::client::{EvolutionClient, OperationsClient};
use rei::interface::secret::Secret;
use rei::runtime::spawn::{SpawnSpec, spawn};
use serde_json::Value;

use crate::fakes::{Served, evolution_by, operations, operations_by, skip};

const SOCKET: &str = "REI_TEST_CALLER_SOCKET";
const LEAVES: &str = "REI_TEST_CALLER_LEAVES";
/// The variable with the call that the caller makes; `Pause` by default.
const CALL: &str = "REI_TEST_CALLER_CALL";
/// The variable with the socket for the client in a process that has given up new privileges.
const OPERATES: &str = "REI_TEST_CALLER_OPERATES";
/// A call that promotes a waiting candidate.
const APPROVE: &str = r#"{"method":"io.openexec.Supervisor.Approve","parameters":{"id":"evo_0001"}}"#;

/// A caller. Not a test by itself: the tests start it as their child.
#[test]
fn the_caller_of_the_other_tests() {
    let Some(path) = std::env::var_os(SOCKET) else { return };
    let mut stream = UnixStream::connect(Path::new(&path)).unwrap();
    let call = std::env::var(CALL).unwrap_or_else(|_| r#"{"method":"io.openexec.Supervisor.Pause"}"#.into());
    // A variable cannot contain NUL, so the message ends with a newline here.
    stream.write_all(format!("{}\0", call.replace('\n', "\0")).as_bytes()).unwrap();
    if std::env::var_os(LEAVES).is_some() {
        return;
    }
    let mut reply = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte != [0] {
        reply.push(byte[0]);
    }
    eprintln!("{}", String::from_utf8(reply).unwrap());
}

fn caller(path: &Path, shell: Option<&str>) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(if shell.is_some() { Path::new("sh") } else { &program });
    if let Some(script) = shell {
        command.args(["-c", script]).arg(&program);
    }
    command.args(["--exact", "access::the_caller_of_the_other_tests", "--nocapture"]).env(SOCKET, path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Starts the caller, passes its process id to `started` before the server can run, and returns the reply that the caller got.
async fn reply_to(served: &Served, shell: Option<&str>, started: impl FnOnce(u32)) -> Value {
    let child = tokio::process::Command::from(caller(&served.path, shell)).kill_on_drop(true).spawn().unwrap();
    started(child.id().unwrap());
    let output = child.wait_with_output().await.unwrap();
    serde_json::from_str(String::from_utf8_lossy(&output.stderr).lines().next().unwrap()).unwrap()
}

#[derive(Clone, Default)]
struct Refusals(Arc<Mutex<Vec<Refusal>>>);

impl Refusals {
    fn recorded(&self, access: Access) -> Access {
        let refusals = self.clone();
        access.on_refusal(move |refusal| refusals.0.lock().unwrap().push(refusal.clone()))
    }

    fn reasons(&self) -> Vec<RefusalReason> {
        self.0.lock().unwrap().iter().map(|refusal| refusal.reason.clone()).collect()
    }
}

#[tokio::test]
async fn another_process_of_the_user_may_call() {
    let refusals = Refusals::default();
    let served = operations(refusals.recorded(Access::own_user().refuse_instances(|_| false)));
    let reply = reply_to(&served, None, |_| {}).await;
    assert_eq!(reply, serde_json::json!({ "parameters": {} }));
    assert_eq!((served.owner.calls(), refusals.reasons()), (vec!["pause".into()], vec![]));
}

#[tokio::test]
async fn an_instance_is_refused_and_so_is_its_child() {
    for shell in [None, Some(r#""$0" "$@"; true"#)] {
        let (refusals, instance) = (Refusals::default(), Arc::new(AtomicU32::new(0)));
        let known = Arc::clone(&instance);
        let access = Access::own_user().refuse_instances(move |pid| pid == known.load(Ordering::SeqCst));
        let served = operations(refusals.recorded(access));
        let reply = reply_to(&served, shell, |pid| instance.store(pid, Ordering::SeqCst)).await;
        assert_eq!(reply["error"], "io.openexec.Supervisor.NotAllowed", "{reply}");
        assert!(served.owner.calls().is_empty());
        assert_eq!(refusals.reasons(), [RefusalReason::Instance(instance.load(Ordering::SeqCst))]);
        assert!(refusals.reasons()[0].is_policy_anomaly());
    }
}

#[tokio::test]
async fn an_unknown_descendant_of_the_supervisor_is_refused() {
    let refusals = Refusals::default();
    let served = operations(refusals.recorded(Access::own_user().refuse_descendants_of(std::process::id())));
    let reply = reply_to(&served, None, |_| {}).await;
    assert_eq!(reply["error"], "io.openexec.Supervisor.NotAllowed", "{reply}");
    assert_eq!(refusals.reasons(), [RefusalReason::Descendant]);
    // The supervisor is not its own descendant.
    served.operator().await.status().await.unwrap();
}

#[tokio::test]
async fn a_control_group_of_an_instance_is_refused() {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = own.lines().find_map(|line| line.splitn(3, ':').nth(2)).map(str::to_owned) else {
        skip("this machine has no control groups");
        return;
    };
    let refusals = Refusals::default();
    let served = operations(refusals.recorded(Access::own_user().refuse_instance_cgroups(move |group| group == own)));
    let reply = reply_to(&served, None, |_| {}).await;
    assert_eq!(reply["error"], "io.openexec.Supervisor.NotAllowed", "{reply}");
    assert!(matches!(refusals.reasons()[..], [RefusalReason::Foreign(_)]));
}

#[tokio::test]
async fn a_caller_that_has_exited_is_refused_even_if_its_pid_is_reused() {
    let refusals = Refusals::default();
    let served = operations(refusals.recorded(Access::own_user().refuse_instances(|_| false)));
    // The server's task runs only after the child has connected and exited.
    assert!(caller(&served.path, None).env(LEAVES, "1").status().unwrap().success());
    crate::fakes::until("the refusal", || !refusals.reasons().is_empty()).await;
    assert_eq!(refusals.reasons(), [RefusalReason::Gone]);
    assert!(served.owner.calls().is_empty());
}

/// Runs a copy of the caller by `command` as another user that can reach the socket; returns its output.
async fn as_another_user(served: &Served, command: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    // The socket is open to every user, so that only the check can refuse.
    std::fs::set_permissions(&served.path, std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::set_permissions(served.path.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // Another user may not be able to reach the test program, but can reach a copy.
    let copy = served.path.with_file_name("caller");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let arguments = "--exact access::the_caller_of_the_other_tests --nocapture";
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("exec {command} {} {arguments}", copy.display())).env(SOCKET, &served.path);
    shell.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = tokio::process::Command::from(shell).kill_on_drop(true).output().await.unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn another_user_is_refused_unless_of_the_group() {
    if !nix::unistd::geteuid().is_root() || which::which("setpriv").is_err() {
        skip("only root, with setpriv, can be another user");
        return;
    }
    const GROUP: u32 = 54_321;
    let refusals = Refusals::default();
    let served = operations(refusals.recorded(Access::own_user().group(GROUP)));
    let nobody = "setpriv --reuid 65534 --regid 65534";
    let stranger = as_another_user(&served, &format!("{nobody} --clear-groups")).await;
    assert!(stranger.contains("io.openexec.Supervisor.NotAllowed"), "{stranger}");
    assert_eq!(refusals.reasons(), [RefusalReason::User]);
    assert!(!refusals.reasons()[0].is_policy_anomaly());
    let member = as_another_user(&served, &format!("{nobody} --groups {GROUP}")).await;
    assert!(member.contains("{\"parameters\":{}}"), "{member}");
    let member = as_another_user(&served, &format!("setpriv --reuid 65534 --regid {GROUP} --clear-groups")).await;
    assert!(member.contains("{\"parameters\":{}}"), "{member}");
    assert_eq!(refusals.reasons().len(), 1);
}

/// Makes a call from an orphan that no supervisor knows any more: rei started it like an instance, it forked twice, has its own
/// session and environment, and its main process has exited. Returns the reply to `call`.
async fn orphan(served: &Served, call: &str) -> String {
    let place = tempfile::tempdir_in(served.path.parent().unwrap()).unwrap();
    let place = place.path();
    let said = std::fs::File::create(place.join("said")).unwrap();
    let script = r#"
        (setsid env -i REI_TEST_CALLER_SOCKET="$1" REI_TEST_CALLER_CALL="$2" sh -c '
            while [ -e /proc/$0/stat ]; do sleep 0.01; done
            exec "$@" >/dev/null
        ' $$ "$3" --exact access::the_caller_of_the_other_tests --nocapture &)
    "#;
    let program = std::env::current_exe().unwrap();
    let args: Vec<OsString> =
        ["-c".into(), script.into(), "sh".into(), served.path.clone().into(), call.into(), program.into()].into();
    let path = vec![("PATH".into(), std::env::var_os("PATH").unwrap())];
    let main = spawn(&SpawnSpec {
        id: "test-1-a",
        program: &which::which("sh").unwrap(),
        args: &args,
        env: &path,
        dir: None,
        fds: &[],
        stdout: said.as_fd(),
        stderr: said.as_fd(),
        sandbox: None,
        cgroup: None,
        notify: None,
        pid_cell: None,
        gate: None,
    })
    .unwrap();
    waitid(Id::PIDFd(main.pidfd.as_fd()), WaitPidFlag::WEXITED).unwrap();
    let mut reply = String::new();
    crate::fakes::until("the orphan's reply", || {
        reply = std::fs::read_to_string(place.join("said")).unwrap();
        reply.contains('\n')
    })
    .await;
    reply
}

/// The access rule of a supervisor, as far as it exists without a supervisor, and the secret of its socket.
pub fn rule(served_path: &Path, why: Option<&'static str>) -> Access {
    let secret = Arc::new(Secret::make(&Secret::file_beside(served_path), None).unwrap());
    Access::own_user().refuse_instances(|_| false).ask_for_proof(move || match why {
        Some(why) => Proof::Impossible(why.into()),
        None => Proof::Secret(Arc::clone(&secret)),
    })
}

#[tokio::test]
async fn an_unknown_orphan_cannot_approve_its_own_promotion() {
    let refusals = Refusals::default();
    let served = operations_by(|path| refusals.recorded(rule(path, None)));
    let reply = orphan(&served, APPROVE).await;
    assert!(served.owner.calls().is_empty(), "{:?} was done for it: {reply}", served.owner.calls());
    assert!(reply.contains("io.openexec.Access.ProofNeeded") && reply.contains("control.key"), "{reply}");
    // A guessed secret does not help either, and is reported as wrong.
    let guess = r#"{"method":"io.openexec.Access.Prove","parameters":{"secret":"0000"}}"#;
    let reply = orphan(&served, &format!("{guess}\n{APPROVE}")).await;
    assert!(reply.contains("io.openexec.Access.NotAllowed"), "{reply}");
    assert_eq!(refusals.reasons(), [RefusalReason::WrongSecret]);
    assert!(refusals.reasons()[0].is_policy_anomaly() && served.owner.calls().is_empty());
    // It may not read events either.
    let reply = orphan(&served, r#"{"method":"io.openexec.Supervisor.Monitor","more":true}"#).await;
    assert!(reply.contains("ProofNeeded") && served.owner.calls().is_empty(), "{reply}");
}

#[tokio::test]
async fn if_an_orphan_could_read_the_secret_no_proof_is_accepted() {
    let refusals = Refusals::default();
    let served = operations_by(|path| refusals.recorded(rule(path, Some("isolation.enabled is false"))));
    let reply = orphan(&served, APPROVE).await;
    let reason = "isolation.enabled is false; call from a process without no_new_privs";
    assert!(reply.contains("io.openexec.Supervisor.NotAllowed") && reply.contains(reason), "{reply}");
    assert!(served.owner.calls().is_empty() && !refusals.reasons()[0].is_policy_anomaly());
    // A caller that cannot be an orphan of an instance needs no proof.
    if std::fs::read_to_string("/proc/self/status").unwrap().contains("NoNewPrivs:\t1") {
        skip("this test process itself has given up new privileges");
        return;
    }
    served.operator().await.pause().await.unwrap();
}

#[tokio::test]
async fn the_evolution_interface_is_no_way_round() {
    let served = evolution_by(|path| rule(path, None));
    let call = r#"{"method":"io.openexec.RuntimeEvolution.BuildCandidateRuntime","parameters":{}}"#;
    let reply = orphan(&served, call).await;
    assert!(reply.contains("io.openexec.Access.ProofNeeded") && served.owner.calls().is_empty(), "{reply}");
}

/// An operator with the client. Not a test by itself: the next one starts it as its child.
#[tokio::test]
async fn the_operator_of_the_next_test() {
    let (Some(control), Some(automation)) = (std::env::var_os(OPERATES), std::env::var_os(SOCKET)) else { return };
    let client = OperationsClient::connect(control).await.unwrap();
    client.status().await.unwrap_or_else(|error| panic!("{error}"));
    client.monitor().await.unwrap();
    client.approve("evo_0001".into()).await.unwrap();
    let report = EvolutionClient::of_supervisor(automation, crate::fakes::PATIENCE).report_runtime_health().await;
    assert_eq!(report.unwrap().runtime.name, "greeter");
}

#[tokio::test]
async fn an_operator_without_new_privileges_proves_itself_by_the_secret() {
    let served = operations_by(|path| rule(path, None));
    let automation = evolution_by(|path| rule(path, None));
    let operate = async || {
        let mut itself = tokio::process::Command::new(std::env::current_exe().unwrap());
        itself.args(["--exact", "access::the_operator_of_the_next_test", "--nocapture"]);
        itself.env(OPERATES, &served.path).env(SOCKET, &automation.path).env("RUST_BACKTRACE", "0").kill_on_drop(true);
        // SAFETY: only one system call between fork and exec.
        unsafe { itself.pre_exec(|| Ok(nix::sys::prctl::set_no_new_privs()?)) };
        let output = itself.output().await.unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (well, said) = operate().await;
    assert!(well, "{said}");
    crate::fakes::until("the monitor", || served.owner.calls().len() == 3).await;
    assert_eq!(served.owner.calls(), ["status", "monitor", "approve evo_0001"]);
    assert_eq!(automation.owner.calls(), ["health"]);
    std::fs::remove_file(Secret::file_beside(&served.path)).unwrap();
    let (well, said) = operate().await;
    assert!(!well && said.contains("control.key cannot be read"), "{said}");
}
