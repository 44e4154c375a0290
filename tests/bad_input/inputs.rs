//! Repositories whose trees do not have all files, and programs that the instance cannot start by itself.

use crate::common::git::{commit, git, init};
use crate::lab::{FLAKE, Lab, Supervisor, system};
use crate::preflight::{Answer, about, both_refuse, check_by};

/// The lab's service keeps its behaviour in a submodule, `parts`, from a repository beside its own.
fn with_a_submodule(lab: &Lab, behaviour: &str) {
    init(&lab.path("library"));
    library(lab, behaviour);
    let add = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "../library", "parts"];
    git(&lab.path("repo"), &add);
    lab.write("flake.nix", &FLAKE.replace("./behaviour", "./parts/behaviour").replace("SYSTEM", &system()));
    lab.write("checks/default.nix", "{ check, self }: { }\n");
    lab.commit_tree("a submodule");
}

/// Commits a behaviour in the repository of the submodule; returns the commit.
fn library(lab: &Lab, behaviour: &str) -> String {
    std::fs::write(lab.path("library/behaviour"), format!("{behaviour}\n")).unwrap();
    commit(&lab.path("library"), behaviour)
}

/// Pins the newest commit of the submodule; returns the commit of the service.
fn pin(lab: &Lab, behaviour: &str) -> String {
    let library = library(lab, behaviour);
    git(&lab.path("repo/parts"), &["fetch", "--quiet", "origin"]);
    git(&lab.path("repo/parts"), &["checkout", "--quiet", "--detach", &library]);
    lab.commit_tree(behaviour)
}

fn stop(supervisor: &mut Supervisor) {
    assert_eq!(supervisor.stop(), Some(0));
}

/// The only warning with these words.
fn warning<'a>(answers: &'a [Answer], words: &str) -> &'a Answer {
    let found: Vec<_> = answers.iter().filter(|it| it.level == "warn" && it.line.contains(words)).collect();
    assert_eq!(found.len(), 1, "{words:?} in {answers:?}");
    found[0]
}

#[test]
fn a_submodule_without_the_option_is_named_with_the_option() {
    let Some(lab) = Lab::new() else { return };
    with_a_submodule(&lab, "well 1");
    let source = about(check_by(&lab, lab.rei(), &[]), "source");
    let empty = warning(&source, "the submodule parts is an empty directory in a build");
    assert!(empty.hint.contains("runtime.submodules = true"), "{empty:?}");
    both_refuse(&lab, "package", &[], &["parts/behaviour", "the submodule parts is an empty directory"]);
}

#[test]
fn a_submodule_is_built_with_the_option() {
    let Some(lab) = Lab::new() else { return };
    with_a_submodule(&lab, "well 1");
    lab.configure_with("submodules = true\n", "");
    let source = about(check_by(&lab, lab.rei(), &[]), "source");
    assert!(source.iter().any(|it| it.level == "ok" && it.line.contains("the submodule parts")), "{source:?}");
    let mut supervisor = lab.serving();
    let load = lab.load();
    let rev = pin(&lab, "well 2");
    supervisor.verdict_on(&rev);
    supervisor.until("version 2 to serve", |_| lab.ask("/") == Ok("2".into()));
    load.none_lost();
    stop(&mut supervisor);
}

#[test]
fn a_protected_file_in_a_submodule_may_not_change() {
    let Some(lab) = Lab::new() else { return };
    with_a_submodule(&lab, "well 1");
    lab.configure_with("submodules = true\n", "[validation]\nprotected = [\"parts/*\"]\n");
    let mut supervisor = lab.serving();
    let rev = pin(&lab, "well 2");
    let verdict = supervisor.verdict_on(&rev);
    assert!(verdict.summary.contains("protected"), "{verdict:?}");
    assert_eq!(lab.ask("/"), Ok("1".into()));
    stop(&mut supervisor);
}

/// The submodule names a repository that is not beside the source, or that does not exist: nothing is read from there.
#[test]
fn a_submodule_from_elsewhere_is_refused() {
    let Some(lab) = Lab::new() else { return };
    with_a_submodule(&lab, "well 1");
    lab.configure_with("submodules = true\n", "");
    // Another clone of the source has no copies of its submodules.
    std::fs::remove_dir_all(lab.path("repo/.git/modules")).unwrap();
    std::fs::remove_file(lab.path("repo/parts/.git")).unwrap();
    for (url, words) in [
        ("/etc", ["the submodule parts names /etc", "not beside runtime.source"]),
        ("ext::sh -c true", ["the submodule parts has an URL that would run a program", "ext::sh -c true"]),
        ("../absent", ["the submodule parts", "/absent: there is no such directory"]),
    ] {
        git(&lab.path("repo"), &["config", "--file", ".gitmodules", "submodule.parts.url", url]);
        git(&lab.path("repo"), &["add", ".gitmodules"]);
        git(&lab.path("repo"), &["commit", "--quiet", "--message", "elsewhere"]);
        both_refuse(&lab, "source", &[], &words);
    }
}

/// The first lines of a file that `git lfs` manages, as git has it.
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
                       oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

#[test]
fn a_git_lfs_pointer_is_named() {
    let Some(lab) = Lab::new() else { return };
    lab.write("models/large.bin", POINTER);
    lab.commit("well 1");
    let package = about(check_by(&lab, lab.rei(), &[]), "package");
    let pointer = warning(&package, "models/large.bin");
    assert!(pointer.line.contains("Git LFS") && pointer.hint.contains("git lfs migrate export"), "{pointer:?}");
    let mut supervisor = lab.serving();
    assert!(supervisor.output().contains(&pointer.line), "{}", supervisor.output());
    let rev = lab.commit("does not build");
    let verdict = supervisor.verdict_on(&rev);
    assert!(verdict.summary.contains("models/large.bin") && verdict.summary.contains("Git LFS"), "{verdict:?}");
    stop(&mut supervisor);
}

/// The service becomes a script with this first line.
fn script(lab: &Lab, first_line: &str) {
    use std::os::unix::fs::PermissionsExt;
    lab.write("script", &format!("{first_line}\n"));
    std::fs::set_permissions(lab.path("repo/script"), std::fs::Permissions::from_mode(0o755)).unwrap();
    lab.write(
        "flake.nix",
        &FLAKE.replace("program = \"${./unruly}\"", "program = \"${./script}\"").replace("SYSTEM", &system()),
    );
    lab.commit_tree(first_line);
}

#[test]
fn an_interpreter_outside_the_store_is_named_and_the_option_offered() {
    let Some(lab) = Lab::new() else { return };
    script(&lab, "#!/bin/sh");
    both_refuse(&lab, "program", &["--build"], &["/bin/sh", "interpreter"]);
    let refused = lab.refused();
    assert!(refused.contains("isolation.execute = ["), "{refused}");
}

/// A small server that gets its listener by socket activation.
const SERVER: &str = r#"
import os, socket, sys
package = os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0])))
version = open(os.path.join(package, "behaviour")).read().split()[1]
listener = socket.socket(fileno=3)
while True:
    stream, _ = listener.accept()
    stream.recv(4096)
    head = f"HTTP/1.1 200 X\r\ncontent-length: {len(version)}\r\nconnection: close\r\n\r\n"
    stream.sendall((head + version).encode())
    stream.close()
"#;

/// With the option, and the same paths in Nix's sandbox, such a service is served and judged.
#[test]
fn an_interpreter_of_the_machine_is_used_if_the_operator_allows_it() {
    let Some(mut lab) = Lab::new() else { return };
    if !std::path::Path::new("/usr/bin/python3").exists() {
        eprintln!("SKIPPED: no /usr/bin/python3");
        return;
    }
    lab.take_own_store();
    let conf = std::fs::read_to_string(lab.path("etc/nix.conf")).unwrap();
    std::fs::write(lab.path("etc/nix.conf"), conf.replace("sandbox-paths =", "sandbox-paths = /usr /lib /lib64"))
        .unwrap();
    script(&lab, &format!("#!/usr/bin/python3\n{SERVER}"));
    lab.configure("[isolation]\nexecute = [\"/usr\", \"/lib\", \"/lib64\"]\n");
    let mut supervisor = lab.serving();
    let rev = lab.commit("well 2");
    let verdict = supervisor.verdict_on(&rev);
    supervisor.until("version 2 to serve", |_| lab.ask("/") == Ok("2".into()));
    println!("{verdict:?}");
    stop(&mut supervisor);
}

/// A candidate whose interpreter is not in the store fails, and the report names the interpreter.
#[test]
fn a_candidate_with_an_interpreter_outside_the_store_is_rejected_with_its_name() {
    let Some(lab) = Lab::new() else { return };
    let mut supervisor = lab.serving();
    script(&lab, "#!/usr/bin/python3");
    let rev = lab.git(&["rev-parse", "HEAD"]);
    let verdict = supervisor.verdict_on(&rev);
    let words = ["its interpreter /usr/bin/python3 does not exist in the sandbox of the judge"];
    assert!(words.iter().all(|word| verdict.summary.contains(word)), "{verdict:?}");
    assert_eq!(lab.ask("/"), Ok("1".into()));
    stop(&mut supervisor);
}
