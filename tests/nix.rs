//! The module `nix` with a real Nix, in its own store.

#[expect(dead_code, reason = "uses a part of it")]
mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use common::nix::{Flake, Store};
use common::store::is_shared;
use rei::nix::{
    Builder, Derivation, Error, FailureKind, FlakeRef, Nix, Problem, Profile, Progress, RealiseOptions, Refusal, Roots,
    probe_builder_main, prove,
};
use tokio::sync::mpsc;

fn options() -> RealiseOptions {
    let minute = Duration::from_secs(60);
    RealiseOptions { jobs: 2, timeout: minute, silence: minute, total: 2 * minute, root: None }
}

async fn build(nix: &Nix, derivation: &Derivation) -> PathBuf {
    let realised = nix.realise(std::slice::from_ref(derivation), &options(), None).await.unwrap();
    assert!(realised.all_valid(), "{realised:?}");
    derivation.out.clone()
}

/// Builds the package of a flake with only this script.
async fn built(store: &Store, script: &str) -> PathBuf {
    let flake = Flake::new();
    flake.write("packages/default.sh", script);
    let derivation =
        store.nix.evaluate_package(&flake.at(&store.nix, &flake.commit("one")).await, "default", None).await.unwrap();
    build(&store.nix, &derivation).await
}

#[tokio::test]
async fn a_package_is_evaluated_built_and_queried() {
    let Some(store) = Store::open().await else { return };
    let nix = &store.nix;
    let place = if is_shared() { PathBuf::from("/nix/store") } else { store.path("store") };
    assert_eq!(nix.store_dir(), place);
    let flake = Flake::new();
    flake.write("packages/default.sh", "mkdir $out; echo one; echo two >&2; echo $src > $out/source");
    flake.write("packages/other.sh", "exit 1");
    let flake = flake.at(&store.nix, &flake.commit("one")).await;
    let derivation = nix.evaluate_package(&flake, "default", None).await.unwrap();
    assert!(derivation.drv.starts_with(nix.store_dir()) && derivation.drv.exists(), "{derivation:?}");
    assert_eq!(nix.invalid([&derivation.out]).await.unwrap().len(), 1);
    assert_eq!(nix.log(&derivation.drv, 100).await.unwrap(), None);

    let (send, mut receive) = mpsc::channel(1000);
    let realised = nix.realise(std::slice::from_ref(&derivation), &options(), Some(send)).await.unwrap();
    assert!(realised.all_valid(), "{realised:?}");
    let mut events = Vec::new();
    while let Some(event) = receive.recv().await {
        events.push(event);
    }
    let drv = derivation.drv.clone();
    let seen: Vec<_> = events.into_iter().filter(|event| !matches!(event, Progress::Counts { .. })).collect();
    let line = |line: &str| Progress::Line { drv: drv.clone(), line: line.to_owned() };
    let expected =
        [Progress::Started { drv: drv.clone() }, line("one"), line("two"), Progress::Ended { drv: drv.clone() }];
    assert_eq!(seen, expected);

    let source = PathBuf::from(std::fs::read_to_string(derivation.out.join("source")).unwrap().trim());
    assert_eq!(nix.references(&derivation.out).await.unwrap(), [source.clone()].into());
    assert_eq!(nix.closure(&derivation.out).await.unwrap(), [source, derivation.out.clone()].into());
    assert!(nix.closure_size(&derivation.out).await.unwrap() > 1000);
    assert_eq!(nix.deriver(&derivation.out).await.unwrap(), Some(drv.clone()));
    assert_eq!(nix.outputs(&drv).await.unwrap(), [derivation.out.clone()].into());
    assert_eq!(nix.log(&drv, 100).await.unwrap().as_deref(), Some(&b"one\ntwo\n"[..]));
    assert_eq!(nix.log(&drv, 4).await.unwrap().as_deref(), Some(&b"two\n"[..]), "the end is kept");
    assert!(nix.verify_path(&derivation.out).await.unwrap());
    assert!(matches!(nix.references(Path::new("/etc/passwd")).await, Err(Error::NotInStore { .. })));

    let error = nix.evaluate_package(&flake, "nosuch", None).await.unwrap_err();
    assert!(error.to_string().ends_with("it has: default, other"), "{error}");
    assert!(error.hint().unwrap().contains("runtime.package = \"default\""));
}

#[tokio::test]
async fn a_file_and_a_tree_can_be_added_and_a_change_is_seen() {
    let Some(store) = Store::relocated().await else { return };
    let (nix, tree) = (&store.nix, Flake::new());
    tree.write("packages/default.sh", "echo hello > $out");
    let added = nix.add(tree.dir()).await.unwrap();
    assert_eq!(nix.deriver(&added).await.unwrap(), None);
    let flake = FlakeRef::tree(&added, &nix.nar_hash(&added).await.unwrap()).unwrap();
    let out = build(nix, &nix.evaluate_package(&flake, "default", None).await.unwrap()).await;
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "hello\n");
    let wrong = FlakeRef::tree(&added, "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
    assert!(nix.evaluate_package(&wrong, "default", None).await.is_err());

    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&out, "HELLO\n").unwrap();
    assert!(!nix.verify_path(&out).await.unwrap());
}

#[tokio::test]
async fn failures_of_a_call_are_distinguished_and_do_not_affect_the_others() {
    let Some(store) = Store::open().await else { return };
    let flake = Flake::new();
    for (name, script) in [
        ("good", "echo > $out"),
        ("fails", "echo last output; exit 3"),
        ("late", "while :; do echo x; sleep 0.1; done"),
        ("empty", "true"),
        // Nix 2.8 stops the whole call at this.
        ("hostile", "printf '@nix {}\\n' >&2; sleep 0.2; echo > $out"),
        ("slow", "sleep 1; echo > $out"),
    ] {
        flake.write(&format!("checks/{name}.sh"), script);
    }
    let flake = flake.at(&store.nix, &flake.commit("one")).await;
    let checks = store.nix.evaluate_checks(&flake, None).await.unwrap();
    let names: Vec<&str> = checks.keys().map(String::as_str).collect();
    assert_eq!(names, ["empty", "fails", "good", "hostile", "late", "slow"]);
    let all: Vec<Derivation> = checks.into_values().map(Option::unwrap).collect();
    let roots = Roots::open(&store.path("roots")).unwrap();
    let options = RealiseOptions { timeout: Duration::from_secs(3), root: Some(roots.path("x").unwrap()), ..options() };
    let realised = store.nix.realise(&all, &options, None).await.unwrap();
    let kind = |n: usize| realised.outcomes[n].failure.as_ref().map(|failure| failure.kind);
    assert_eq!(kind(0), Some(FailureKind::NoOutput), "{realised:?}");
    assert_eq!(kind(1), Some(FailureKind::Builder), "{realised:?}");
    assert_eq!(kind(2), None, "{realised:?}");
    assert_eq!(kind(4), Some(FailureKind::TimedOut), "{realised:?}");
    assert_eq!(kind(5), None, "a hostile build made another one fail: {realised:?}");
    assert_eq!(store.nix.log(&all[1].drv, 100).await.unwrap().as_deref(), Some(&b"last output\n"[..]));
    // The successful outputs are kept, although the whole call failed.
    store.run("nix-store", &["--gc"]);
    let invalid = store.nix.invalid(all.iter().map(|one| &one.out)).await.unwrap();
    assert!(!invalid.contains(&all[2].out) && !invalid.contains(&all[5].out), "{invalid:?}");
}

#[tokio::test]
async fn checks_that_do_not_evaluate_are_none_and_do_not_affect_the_others() {
    let Some(store) = Store::open().await else { return };
    let flake = Flake::new();
    let text = |extra: &str| {
        format!(
            r#"{{ outputs = {{ self }}: {{ checks."{}" = {{
  good = derivation {{ name = "good"; system = "{0}"; builder = "/bin/sh"; }};
  thrown = throw "on purpose"; asserted = assert false; 1; number = 5; "odd ${{"name"}}" = throw "x"; {extra} }}; }}; }}"#,
            store.nix.system()
        )
    };
    flake.write("flake.nix", &text(""));
    let caught = store.nix.evaluate_checks(&flake.at(&store.nix, &flake.commit("caught")).await, None).await.unwrap();
    flake.write(
        "flake.nix",
        &text(
            r#"aborted = abort "x"; typed = 1 + "a"; absent = {}.a; deep = let f = x: f (x + 1) + 1; in f 0;
                 file = import ./nosuch.nix; impure = builtins.readFile /etc/passwd; "quo\"te" = abort "y";"#,
        ),
    );
    let rev = flake.commit("not caught");
    let root = store.path("checks");
    let found = store.nix.evaluate_checks(&flake.at(&store.nix, &rev).await, Some(&root)).await.unwrap();
    for (checks, count) in [(&caught, 5), (&found, 12)] {
        assert_eq!(checks.len(), count, "{checks:?}");
        let good: Vec<_> = checks.iter().filter(|(_, found)| found.is_some()).map(|(name, _)| name.as_str()).collect();
        assert_eq!(good, ["good"]);
    }
    assert_eq!(caught["good"], found["good"]);
    assert_eq!(std::fs::read_link(root).unwrap(), found["good"].as_ref().unwrap().drv);
    let many = r#"many = abort "x"; } // builtins.listToAttrs (map (n: { name = "n${toString n}"; value = 1; })
                  (builtins.genList (n: n) 1000)) // { "#;
    flake.write("flake.nix", &text(many));
    let refused =
        store.nix.evaluate_checks(&flake.at(&store.nix, &flake.commit("many")).await, None).await.unwrap_err();
    assert!(matches!(refused, Error::TooManyChecks { count: 1006, .. }), "{refused}");
    flake.write("flake.nix", "{ outputs = { self }: { }; }");
    assert_eq!(
        store.nix.evaluate_checks(&flake.at(&store.nix, &flake.commit("none")).await, None).await.unwrap(),
        BTreeMap::new()
    );
}

#[tokio::test]
async fn each_evaluation_that_fails_says_what_to_do() {
    let Some(store) = Store::open().await else { return };
    let nix = &store.nix;
    let flake = Flake::new();
    let commit = async |text: &str| {
        flake.write("flake.nix", text);
        flake.at(nix, &flake.commit("x")).await
    };
    let package =
        |value: &str| format!("{{ outputs = {{ self }}: {{ packages.{}.default = {value}; }}; }}", nix.system());
    let derivation = format!(r#"derivation {{ name = "x"; system = "{}"; builder = "/bin/sh"; }}"#, nix.system());
    for (flake, problem) in [
        (commit(&package("throw \"broken on purpose\"")).await, Problem::Other),
        (commit(&package("abort \"no\"")).await, Problem::Other),
        (commit(&package("let f = x: f (x + 1) + 1; in f 0")).await, Problem::Recursion),
        (commit(&package("builtins.readFile /etc/passwd")).await, Problem::Impure),
        (commit(&package(&format!("import ({derivation})"))).await, Problem::ImportFromDerivation),
        (commit("{ outputs = { self }: { a = ; }; }").await, Problem::Other),
        (
            commit(r#"{ inputs.a.url = "git+file:///nonexistent"; outputs = { self, a }: { }; }"#).await,
            Problem::Unlocked,
        ),
        (commit("{ }").await.in_dir("nosuch"), Problem::NoFlake),
    ] {
        let error = nix.evaluate_package(&flake, "default", None).await.unwrap_err();
        let shown = error.to_string();
        assert_eq!(error.problem(), Some(&problem), "{error:?}");
        assert!(shown.starts_with("package default of ") && !shown.contains('\n'), "{shown}");
        assert_eq!(error.hint().is_some(), problem != Problem::Other, "{error:?}");
    }
    let broken = commit(&package("throw \"broken on purpose\"")).await;
    let shown = nix.evaluate_package(&broken, "default", None).await;
    assert!(shown.unwrap_err().to_string().ends_with(": broken on purpose"));
    let odd = nix.evaluate_package(&commit(&package("5")).await, "default", None).await.unwrap_err();
    assert!(matches!(odd, Error::NotADerivation { ref found, .. } if found == "int"), "{odd}");
    let none = nix.evaluate_package(&commit("{ outputs = { self }: { }; }").await, "default", None).await.unwrap_err();
    assert!(none.to_string().ends_with("it has: none"), "{none}");
    // A flake cannot change Nix's settings, and nothing was written into the tree.
    commit(&format!("{{ nixConfig.sandbox = false; {}", &package("throw \"x\"")[1..])).await;
    assert_eq!(flake.git(&["status", "--porcelain"]), "");
}

/// nixpkgs lists outputs in the order in which they are built, and names those to install in `meta`.
#[tokio::test]
async fn the_output_that_nix_would_install_is_the_version() {
    let Some(store) = Store::open().await else { return };
    let nix = &store.nix;
    let roots = Roots::open(&store.path("roots")).unwrap();
    let flake = Flake::new();
    let text = |end: &str| {
        format!(
            r#"{{ outputs = {{ self }}: {{ packages."{}".default = let
                 package = derivation {{ name = "x"; system = "{}"; builder = "/bin/sh"; 
                   args = [ "-c" "echo dev > $dev; echo bin > $bin; echo out > $out" ];
                   outputs = [ "dev" "bin" "out" ]; }};
               in {end}; }}; }}"#,
            nix.system(),
            nix.system(),
        )
    };
    let options = |name: &str| RealiseOptions { root: Some(roots.path(name).unwrap()), ..options() };
    for (at, (end, output)) in [
        ("package", "dev"),
        (r#"package // { meta.outputsToInstall = [ "bin" "out" ]; }"#, "bin"),
        (r#"package // { meta.outputsToInstall = [ "out" ]; }"#, "out"),
        (r#"package.bin // { outputSpecified = true; meta.outputsToInstall = [ "out" ]; }"#, "bin"),
    ]
    .into_iter()
    .enumerate()
    {
        flake.write("flake.nix", &text(end));
        let found = nix.evaluate_package(&flake.at(nix, &flake.commit("x")).await, "default", None).await.unwrap();
        let name = format!("root{at}");
        let built = nix.realise(std::slice::from_ref(&found), &options(&name), None).await.unwrap();
        assert!(built.all_valid(), "{built:?}");
        assert_eq!(std::fs::read_to_string(&found.out).unwrap().trim(), output, "{end}");
        let kept: Vec<_> = roots.list().unwrap().into_iter().filter(|(root, _)| root.starts_with(&name)).collect();
        assert_eq!(kept, [(name, found.out.clone())], "one root, of what is used");
    }
    flake.write("flake.nix", &text(r#"package // { meta.outputsToInstall = [ "man" ]; }"#));
    let wrong = nix.evaluate_package(&flake.at(nix, &flake.commit("x")).await, "default", None).await.unwrap_err();
    assert!(wrong.to_string().contains("names man, which is no output"), "{wrong}");
}

#[tokio::test]
async fn roots_keep_only_what_they_name() {
    let Some(store) = Store::open().await else { return };
    let nix = &store.nix;
    let roots = Roots::open(&store.path("roots")).unwrap();
    let flake = Flake::new();
    for name in ["default", "evidence", "loose"] {
        flake.write(&format!("packages/{name}.sh"), &format!("echo {name} > $out"));
    }
    let flake = flake.at(&store.nix, &flake.commit("one")).await;
    let link = roots.path("candidate.drv").unwrap();
    let candidate = nix.evaluate_package(&flake, "default", Some(&link)).await.unwrap();
    let unrooted = nix.evaluate_package(&flake, "loose", None).await.unwrap();
    store.run("nix-store", &["--gc"]);
    assert!(nix.invalid([&candidate.drv]).await.unwrap().is_empty(), "a rooted derivation was collected");
    assert_eq!(nix.invalid([&unrooted.drv]).await.unwrap().len(), 1, "the collector did not run");

    let profile = Profile::open(&store.path("profiles"), "app").unwrap();
    let out = build(nix, &candidate).await;
    let number = profile.create_generation(nix, &out).await.unwrap();
    profile.switch(number).unwrap();
    let evidence = nix.evaluate_package(&flake, "evidence", None).await.unwrap();
    let evidence = build(nix, &evidence).await;
    roots.add(nix, "evidence", &evidence).await.unwrap();
    roots.remove("candidate.drv").unwrap();
    store.run("nix-store", &["--gc"]);
    assert!(nix.invalid([&out, &evidence]).await.unwrap().is_empty(), "the running version was collected");
    assert_eq!(roots.list().unwrap(), [("evidence".to_owned(), evidence.clone())].into());
    roots.remove("evidence").unwrap();
    store.run("nix-store", &["--gc"]);
    assert_eq!(nix.invalid([&out, &evidence]).await.unwrap(), [evidence].into());
    let gone = roots.add(nix, "gone", &unrooted.drv).await.unwrap_err();
    assert_eq!(gone.problem(), Some(&Problem::Gone), "{gone:?}");
}

/// The generations as `nix-env` lists them, the current one marked with a `*`.
fn listed(store: &Store, profile: &Profile) -> Vec<String> {
    let path = profile.path();
    let text = store.run("nix-env", &["--profile", path.to_str().unwrap(), "--list-generations"]);
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.map(|words| format!("{}{}", words[0], if words.contains(&"(current)") { "*" } else { "" })).collect()
}

#[tokio::test]
async fn a_profile_works_with_nix_env_too() {
    let Some(store) = Store::open().await else { return };
    let (nix, profile) = (&store.nix, Profile::open(&store.path("profiles"), "my-app").unwrap());
    let path = profile.path();
    let env = |args: &[&str]| store.run("nix-env", &[&["--profile", path.to_str().unwrap()], args].concat());
    let mut outs = Vec::new();
    for n in 1..=4 {
        outs.push(built(&store, &format!("mkdir $out; echo {n} > $out/version")).await);
    }
    for (n, out) in (1..).zip(&outs[..3]) {
        assert_eq!(profile.create_generation(nix, out).await.unwrap(), n);
    }
    assert_eq!(profile.current().unwrap(), None, "making a generation does not switch to it");
    profile.switch(3).unwrap();
    assert_eq!(listed(&store, &profile), ["1", "2", "3*"]);
    assert_eq!(
        profile.create_generation(nix, &outs[2]).await.unwrap(),
        3,
        "the highest generation already has this path"
    );
    profile.prepare_rollback(1).unwrap();
    profile.switch(1).unwrap();
    assert_eq!(listed(&store, &profile), ["1*", "2", "3"], "not the numeric predecessor");
    assert_eq!(std::fs::read_to_string(path.join("version")).unwrap(), "1\n");

    env(&["--switch-generation", "3"]);
    assert_eq!(profile.current().unwrap().unwrap().number, 3);
    env(&["--rollback"]);
    assert_eq!(profile.current().unwrap().unwrap().number, 2);
    env(&["--set", outs[3].to_str().unwrap()]);
    let current = profile.current().unwrap().unwrap();
    assert_eq!((current.number, &current.path), (4, &outs[3]));
    assert_eq!(profile.create_generation(nix, &outs[0]).await.unwrap(), 5);
    profile.prepare_rollback(1).unwrap();
    assert_eq!(profile.prune(1, &[3]).unwrap(), [2], "1 is prepared, 3 in use, 4 current, 5 the highest");
    assert_eq!(listed(&store, &profile), ["1", "3", "4*", "5"]);
    env(&["--delete-generations", "3"]);
    assert!(matches!(profile.switch(3), Err(Error::NoGeneration { number: 3, .. })));
    profile.switch(5).unwrap();
    assert_eq!(listed(&store, &profile), ["1", "4", "5*"]);
    let absent = nix.store_dir().join("00000000000000000000000000000000-x");
    assert_eq!(profile.create_generation(nix, &absent).await.unwrap_err().problem(), Some(&Problem::Gone));
    assert_eq!(listed(&store, &profile), ["1", "4", "5*"]);
}

#[tokio::test]
async fn a_switch_waits_for_nix_env_and_nix_env_for_a_switch() {
    let Some(store) = Store::open().await else { return };
    let profile = Profile::open(&store.path("profiles"), "app").unwrap();
    for n in 1..=2 {
        let out = built(&store, &format!("echo {n} > $out")).await;
        profile.create_generation(&store.nix, &out).await.unwrap();
    }
    profile.switch(1).unwrap();
    let path = profile.path();
    // Both sides switch at the same time, over and over; the profile must always point to a generation.
    let nixs = std::thread::scope(|scope| {
        let nixs = scope.spawn(|| {
            for n in 0..10 {
                let number = if n % 2 == 0 { "2" } else { "1" };
                store.run("nix-env", &["--profile", path.to_str().unwrap(), "--switch-generation", number]);
            }
        });
        while !nixs.is_finished() {
            profile.prepare_rollback(1).unwrap();
            profile.switch(1).unwrap();
            profile.switch(2).unwrap();
            assert!(path.exists());
        }
        nixs.join()
    });
    nixs.unwrap();
    assert_eq!(profile.generations().unwrap().len(), 2);
}

/// The builder of the probe below: Nix runs this test program with the name of this test. Run as a test, it does nothing.
#[test]
fn probe_entry() {
    if std::env::var_os("NIX_BUILD_TOP").is_some() && std::env::var_os("nonce").is_some() {
        assert!(probe_builder_main() == ExitCode::SUCCESS);
    }
}

fn this_test() -> Builder {
    let args = ["--exact", "probe_entry", "--test-threads", "1"].map(Into::into).into();
    Builder { program: std::env::current_exe().unwrap(), probe_args: args }
}

#[tokio::test]
async fn a_sandbox_is_checked_from_inside() {
    // A bare sandbox, without the extra paths of the other tests.
    let Some(store) = Store::bare().await else { return };
    let dir = store.path("state");
    std::fs::create_dir(&dir).unwrap();
    let first = match prove(&store.nix, &this_test(), &dir).await {
        Err(Refusal::NoNamespaces { message }) => return eprintln!("SKIPPED: the kernel gives no sandbox: {message}"),
        proof => proof.unwrap(),
    };
    let second = prove(&store.nix, &this_test(), &dir).await.unwrap();
    assert_eq!(first.builder, second.builder);
    assert_ne!(first.derivation, second.derivation, "an old verdict was taken for a new one");
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
}

#[tokio::test]
async fn without_a_sandbox_the_probe_fails() {
    let Some(store) = Store::relocated().await else { return };
    let dir = store.path("state");
    std::fs::create_dir(&dir).unwrap();
    // A Nix that ignores the sandbox option, as a daemon does for an untrusted user.
    let nix = with_nix_store(&store, "exec REAL \"$@\" --option sandbox false").await.unwrap();
    let refusal = prove(&nix, &this_test(), &dir).await.unwrap_err();
    let Refusal::NotSandboxed { findings, .. } = &refusal else { panic!("{refusal:?}") };
    let found = |words: &str| findings.iter().any(|finding| finding.contains(words));
    assert!(found("sees other processes") && found("net namespace") && found("can be seen"), "{findings:?}");
    assert!(found("are not inputs"), "{findings:?}");
}

/// The Nix of the store with this script instead of `nix-store`; `REAL` in the script is the real program.
async fn with_nix_store(store: &Store, script: &str) -> Result<Nix, Error> {
    use std::os::unix::fs::PermissionsExt;
    let real = which::which("nix-store").unwrap();
    let bin = store.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let program = bin.join("nix-store");
    std::fs::write(&program, format!("#!/bin/sh\n{}\n", script.replace("REAL", real.to_str().unwrap()))).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut env = store.env.clone();
    env[0].1 = [bin.as_os_str(), &env[0].1].join(":".as_ref());
    Nix::locate_in(&store.path("other-home"), env).await
}

#[tokio::test]
async fn a_kernel_that_gives_no_sandbox_is_named() {
    let Some(store) = Store::relocated().await else { return };
    let inside = ["--user", "--map-user=1000", "--map-group=1000", "--keep-caps"];
    let forbid = "echo 0 > /proc/sys/user/max_user_namespaces";
    let tried = std::process::Command::new("unshare").args(inside).args(["sh", "-c", forbid]).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return eprintln!("SKIPPED: no unshare that can make a user namespace without namespaces");
    }
    let script = format!("exec unshare {} sh -c '{forbid}; exec \"$@\"' sh REAL \"$@\"", inside.join(" "));
    let nix = with_nix_store(&store, &script).await.unwrap();
    let refusal = prove(&nix, &this_test(), &store.path("")).await.unwrap_err();
    assert!(matches!(refusal, Refusal::NoNamespaces { .. }), "{refusal:?}");
    assert!(refusal.hint().unwrap().contains("sysctl user.max_user_namespaces"));
}

#[tokio::test]
async fn an_old_nix_is_refused() {
    let Some(store) = Store::relocated().await else { return };
    let error = with_nix_store(&store, "echo 'nix-store (Nix) 2.3.16'").await.unwrap_err();
    assert_eq!(error.to_string(), "Nix 2.3 is older than 2.8, the oldest version that rei supports");
}

#[tokio::test]
async fn a_repository_of_another_user_is_read() {
    let Some(store) = Store::open().await else { return };
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("SKIPPED: only root can give a repository away");
    }
    let flake = Flake::new();
    flake.write("packages/default.sh", "echo > $out");
    let rev = flake.commit("one");
    let chown = std::process::Command::new("chown").args(["-R", "12345"]).arg(flake.dir()).status().unwrap();
    assert!(chown.success());
    // Nix itself refuses this from 2.26 on, but rei gives it the files.
    store.nix.evaluate_package(&flake.at(&store.nix, &rev).await, "default", None).await.unwrap();
}

/// Runs `work` with a small file system on `dir`, which no other process sees and which is unmounted afterwards; `false` if that is
/// not possible.
fn with_small_disk(dir: &Path, mount_args: &[&str], work: impl FnOnce() + Send) -> bool {
    let mount =
        |args: &[&str]| std::process::Command::new("mount").args(args).status().is_ok_and(|done| done.success());
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Only this thread is in the new namespace.
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).is_err() {
                return false;
            }
            let mounted = mount(&["--make-rprivate", "/"]) && mount(&[mount_args, &[dir.to_str().unwrap()]].concat());
            if mounted {
                work();
            }
            mounted
        });
        thread.join().unwrap()
    })
}

/// Writes until the disk has no space for another byte or file.
fn fill(dir: &Path) {
    use std::io::Write;
    let mut full = std::fs::File::create(dir.join("full")).unwrap();
    for size in [4096, 1] {
        while full.write_all(&vec![1; size]).is_ok() {}
    }
    // A long link target uses its own block; short names fill the gaps that long names leave in the directory.
    let mut n = 0;
    for (target, name) in [(200, 200), (1, 200), (1, 1)] {
        let link =
            |n: u32| std::os::unix::fs::symlink("x".repeat(target), dir.join(format!("{n}{}", "y".repeat(name))));
        while link(n).is_ok() {
            n += 1;
        }
    }
    assert!(std::os::unix::fs::symlink("x", dir.join("more")).is_err(), "the disk is not full");
}

#[test]
fn a_prepared_rollback_needs_no_free_space() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, image) = (dir.path().join("disk"), dir.path().join("image"));
    std::fs::create_dir(&disk).unwrap();
    let work = || {
        let profile = Profile::open(&disk, "app").unwrap();
        for n in 1..=3 {
            std::os::unix::fs::symlink(dir.path(), disk.join(format!("app-{n}-link"))).unwrap();
        }
        profile.switch(3).unwrap();
        profile.prepare_rollback(1).unwrap();
        // nix-env does this when it has finished.
        std::fs::remove_file(disk.join("app.lock")).unwrap();
        fill(&disk);
        let refused = profile.switch(2).unwrap_err();
        assert!(refused.hint().is_some_and(|hint| hint.contains("free some space")), "{refused:?}");
        assert_eq!(profile.current().unwrap().unwrap().number, 3);
        profile.switch(1).unwrap();
        assert_eq!(profile.current().unwrap().unwrap().number, 1);
        profile.switch(3).unwrap();
        assert_eq!(profile.current().unwrap().unwrap().number, 3);
    };
    if !with_small_disk(&disk, &["-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "tmpfs"], work) {
        return eprintln!("SKIPPED: only root can mount a small disk");
    }
    let made = std::fs::File::create(&image).and_then(|file| file.set_len(4 << 20));
    let formatted = std::process::Command::new("mkfs.ext4").arg("-q").arg(&image).status();
    let image = image.to_str().unwrap();
    if made.is_err()
        || !formatted.is_ok_and(|done| done.success())
        || !with_small_disk(&disk, &["-o", "loop", image], work)
    {
        eprintln!("SKIPPED: no ext4 on a loop device here");
    }
}

#[tokio::test]
async fn a_missing_daemon_is_named() {
    let Some(store) = Store::relocated().await else { return };
    let mut env = store.env.clone();
    env.retain(|(name, _)| name != "NIX_REMOTE");
    env.push(("NIX_REMOTE".into(), "daemon".into()));
    let error = Nix::locate_in(&store.path("other-home"), env).await.unwrap_err();
    assert_eq!(error.problem(), Some(&Problem::Daemon), "{error:?}");
    assert!(error.hint().unwrap().contains("systemctl start nix-daemon"));
}

/// Whether a process with this word in its command line runs.
fn runs(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.into_iter().any(|line| line.split(|byte| *byte == 0).any(|part| part == word.as_bytes()))
}

#[tokio::test]
async fn a_cancelled_build_is_killed() {
    let Some(store) = Store::open().await else { return };
    let flake = Flake::new();
    // A builder has its own session: a kill of Nix alone would leave it running.
    let word = format!("given-up-{}", std::process::id());
    flake.write("packages/default.sh", &format!("echo started; sh -c 'while :; do sleep 1; done' {word}"));
    let derivation =
        store.nix.evaluate_package(&flake.at(&store.nix, &flake.commit("one")).await, "default", None).await.unwrap();
    let (send, mut receive) = mpsc::channel(100);
    let nix = store.nix.clone();
    let run = tokio::spawn(async move { nix.realise(&[derivation], &options(), Some(send)).await });
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !matches!(receive.recv().await.expect("the build must not end by itself"), Progress::Line { .. }) {}
    while !runs(&word) {
        assert!(std::time::Instant::now() < deadline, "the builder does not appear");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    run.abort();
    while runs(&word) {
        assert!(std::time::Instant::now() < deadline, "the builder outlived its build");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
