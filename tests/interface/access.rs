//! Who may call the supervisor: real processes that connect, each said to be an instance or not.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use rei::interface::access::{Access, Refusal, RefusalReason};
use serde_json::Value;

use crate::fakes::{Served, operations, skip};

const SOCKET: &str = "REI_TEST_CALLER_SOCKET";
const LEAVES: &str = "REI_TEST_CALLER_LEAVES";

/// A caller. Not a test by itself: the tests start it as their child.
#[test]
fn the_caller_of_the_other_tests() {
    let Some(path) = std::env::var_os(SOCKET) else { return };
    let mut stream = UnixStream::connect(Path::new(&path)).unwrap();
    stream.write_all(b"{\"method\":\"io.openexec.Supervisor.Pause\"}\0").unwrap();
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

/// Starts the caller, says which process it is before the server can run, and returns the reply that it got.
async fn reply_to(served: &Served, shell: Option<&str>, started: impl FnOnce(u32)) -> Value {
    let child = tokio::process::Command::from(caller(&served.path, shell)).kill_on_drop(true).spawn().unwrap();
    started(child.id().unwrap());
    let output = child.wait_with_output().await.unwrap();
    serde_json::from_str(String::from_utf8_lossy(&output.stderr).lines().next().unwrap()).unwrap()
}

#[derive(Clone, Default)]
struct Refusals(Arc<Mutex<Vec<Refusal>>>);

impl Refusals {
    fn told(&self, access: Access) -> Access {
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
    let served = operations(refusals.told(Access::own_user().refuse_instances(|_| false)));
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
        let served = operations(refusals.told(access));
        let reply = reply_to(&served, shell, |pid| instance.store(pid, Ordering::SeqCst)).await;
        assert_eq!(reply["error"], "io.openexec.Supervisor.NotAllowed", "{reply}");
        assert!(served.owner.calls().is_empty());
        assert_eq!(refusals.reasons(), [RefusalReason::Instance(instance.load(Ordering::SeqCst))]);
        assert!(refusals.reasons()[0].is_policy_anomaly());
    }
}

#[tokio::test]
async fn what_descends_from_the_supervisor_is_refused_though_nobody_knows_it() {
    let refusals = Refusals::default();
    let served = operations(refusals.told(Access::own_user().refuse_descendants_of(std::process::id())));
    let reply = reply_to(&served, None, |_| {}).await;
    assert_eq!(reply["error"], "io.openexec.Supervisor.NotAllowed", "{reply}");
    assert_eq!(refusals.reasons(), [RefusalReason::Descendant]);
    // The supervisor itself does not descend from itself.
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
    let served = operations(refusals.told(Access::own_user().refuse_instance_cgroups(move |group| group == own)));
    let reply = reply_to(&served, None, |_| {}).await;
    assert_eq!(reply["error"], "io.openexec.Supervisor.NotAllowed", "{reply}");
    assert!(matches!(refusals.reasons()[..], [RefusalReason::Foreign(_)]));
}

#[tokio::test]
async fn a_caller_that_has_ended_is_refused_whoever_has_its_number_now() {
    let refusals = Refusals::default();
    let served = operations(refusals.told(Access::own_user().refuse_instances(|_| false)));
    // The server's task does not run before the child has come and gone.
    assert!(caller(&served.path, None).env(LEAVES, "1").status().unwrap().success());
    crate::fakes::until("the refusal", || !refusals.reasons().is_empty()).await;
    assert_eq!(refusals.reasons(), [RefusalReason::Gone]);
    assert!(served.owner.calls().is_empty());
}

/// Runs a copy of the caller by `command` as another user, who can reach the socket, and returns what it printed.
async fn as_another_user(served: &Served, command: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    // Opened to everyone, so that the check is all there is.
    std::fs::set_permissions(&served.path, std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::set_permissions(served.path.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // The test program may be out of another user's reach: a copy of it is not.
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
    let served = operations(refusals.told(Access::own_user().group(GROUP)));
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
