//! Nix builds the same files that rei compares: the files of a commit, byte for byte, with every version of Nix.

#[expect(dead_code, reason = "uses a part of it")]
mod common;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::git::{commit, git, init};
use common::nix::{Flake, Store};
use rei::nix::{FlakeRef, Nix, Problem};

/// Attributes of the tree that change the files that git and Nix write.
const ATTRIBUTES: &str = "hidden export-ignore\nlater/** export-ignore\nstamped export-subst\nlines text eol=crlf\n\
                          named ident\nscrubbed filter=scrub\nwide text working-tree-encoding=UTF-16\n* -diff\n";

/// A flake whose only package writes the attributes of its own commit.
const TOLD: &str = r#"{ outputs = { self }: {
  packages.SYSTEM.default = derivation {
    name = "known"; system = "SYSTEM"; builder = "/bin/sh"; source = "${./.}";
    known = builtins.toJSON {
      inherit (self) rev shortRev revCount lastModified lastModifiedDate narHash;
      out = "${self.sourceInfo.outPath}";
    };
    args = [ "-c" "echo \"$known\" > $out" ];
  };
}; }"#;

/// Every file below `dir`: its content or link target, and whether it is executable.
fn files(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, bool)> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let about = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(dir).unwrap().to_owned();
            if about.is_dir() {
                open.push(path);
            } else if about.is_symlink() {
                let target = std::fs::read_link(&path).unwrap();
                found.insert(name, (target.as_os_str().as_bytes().to_vec(), false));
            } else {
                let executable = about.permissions().mode() & 0o111 != 0;
                found.insert(name, (std::fs::read(&path).unwrap(), executable));
            }
        }
    }
    found
}

/// The same for a commit, read from git's objects.
fn objects(repository: &Path, rev: &str) -> BTreeMap<PathBuf, (Vec<u8>, bool)> {
    let listed = git(repository, &["ls-tree", "-r", rev]);
    let file = |line: &str| {
        let (about, path) = line.split_once('\t').unwrap();
        let words: Vec<&str> = about.split(' ').collect();
        let content = raw(repository, &["cat-file", "blob", words[2]]);
        (PathBuf::from(path), (content, words[0] == "100755"))
    };
    listed.lines().map(file).collect()
}

/// The output of git, as bytes.
fn raw(repository: &Path, args: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new("git").arg("-C").arg(repository).args(args).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A repository whose attributes change every file.
fn with_attributes() -> Flake {
    let flake = Flake::new();
    let dir = flake.dir();
    git(dir, &["config", "filter.scrub.clean", "tr a-z A-Z"]);
    git(dir, &["config", "filter.scrub.smudge", "tr A-Z n-za-m"]);
    flake.write(".gitattributes", ATTRIBUTES);
    flake.write("flake.nix", &TOLD.replace("SYSTEM", &system()));
    for (name, text) in [
        ("hidden", "a hard test\n"),
        ("later/deep/hidden", "another\n"),
        ("stamped", "$Format:%H %an$\n"),
        ("lines", "one\ntwo\n"),
        ("named", "$Id$\n"),
        ("scrubbed", "secret words\n"),
        ("plain", "\u{0}binary\r\nas it is"),
        ("empty", ""),
        ("run", "#!/bin/sh\n"),
    ] {
        flake.write(name, text);
    }
    let wide: Vec<u8> = "\u{feff}wide\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(dir.join("wide"), wide).unwrap();
    std::fs::set_permissions(dir.join("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("later/deep", dir.join("link")).unwrap();
    std::os::unix::fs::symlink("/nowhere/at all", dir.join("later/out")).unwrap();
    flake
}

fn system() -> String {
    format!("{}-linux", std::env::consts::ARCH)
}

async fn build(nix: &Nix, flake: &FlakeRef) -> PathBuf {
    let derivation = nix.evaluate_package(flake, "default", None).await.unwrap();
    let minute = std::time::Duration::from_secs(60);
    let options = rei::nix::RealiseOptions { jobs: 1, timeout: minute, silence: minute, total: minute, root: None };
    let realised = nix.realise(std::slice::from_ref(&derivation), &options, None).await.unwrap();
    assert!(realised.all_valid(), "{realised:?}");
    derivation.out
}

#[tokio::test]
async fn the_source_of_a_build_is_gits_objects_byte_for_byte() {
    let Some(store) = Store::open().await else { return };
    let flake = with_attributes();
    flake.commit("one");
    flake.write("plain", "changed");
    let rev = flake.commit("two");
    let built = build(&store.nix, &flake.at(&store.nix, &rev).await).await;
    let known: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(built).unwrap()).unwrap();
    let source = files(Path::new(known["out"].as_str().unwrap()));
    let expected = objects(flake.dir(), &rev);
    assert_eq!(source.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (path, content) in &expected {
        assert_eq!(source[path], *content, "{}", path.display());
    }
    // git and Nix themselves would write other files, so the attributes have an effect.
    let archived = raw(flake.dir(), &["archive", &rev]);
    assert!(!String::from_utf8_lossy(&archived).contains("a hard test"));

    // The flake has the same attributes of its commit as if Nix had fetched it.
    let committed_at: i64 = flake.git(&["log", "-1", "--format=%ct"]).trim().parse().unwrap();
    let date = jiff::Timestamp::from_second(committed_at).unwrap().strftime("%Y%m%d%H%M%S").to_string();
    assert_eq!(known["rev"], rev);
    assert_eq!(known["shortRev"], rev[..7]);
    assert_eq!(known["revCount"], 2);
    assert_eq!(known["lastModified"], committed_at);
    assert_eq!(known["lastModifiedDate"], date);
    let hash = store.nix.nar_hash(Path::new(known["out"].as_str().unwrap())).await.unwrap();
    assert_eq!(known["narHash"], hash);
}

#[tokio::test]
async fn a_flake_in_a_directory_has_the_whole_tree_and_its_locked_inputs() {
    let Some(store) = Store::open().await else { return };
    let nix = &store.nix;
    let dependency = store.path("source");
    std::fs::create_dir_all(&dependency).unwrap();
    std::fs::write(dependency.join("flake.nix"), "{ outputs = { self }: { word = \"from the input\"; }; }").unwrap();
    let dependency = nix.add(&dependency).await.unwrap();
    let flake = Flake::new();
    let odd = "a b%20#c?d&e=ü+/x";
    let text = format!(
        "{{ inputs.dep.url = \"path:{}\"; outputs = {{ self, dep }}: {{ packages.{1}.default = derivation {{\n\
         name = \"x\"; system = \"{1}\"; builder = \"/bin/sh\"; here = \"${{./here}}\"; above = \"${{../../above}}\";\n\
         rev = self.rev; word = dep.word; args = [ \"-c\" \"echo $rev $word > $out; cat $here $above >> $out\" ];\n\
         PATH = \"/bin:/usr/bin\"; }}; }}; }}",
        dependency.display(),
        system()
    );
    flake.write(&format!("{odd}/flake.nix"), &text);
    flake.write(&format!("{odd}/here"), "here\n");
    flake.write("above", "above\n");
    let rev = flake.commit("without a lock");
    let unlocked = nix.evaluate_package(&flake.at(nix, &rev).await.in_dir(odd), "default", None).await.unwrap_err();
    assert_eq!(unlocked.problem(), Some(&Problem::Unlocked), "{unlocked:?}");
    let original = serde_json::json!({ "type": "path", "path": dependency });
    let mut locked = original.clone();
    locked["narHash"] = nix.nar_hash(&dependency).await.unwrap().into();
    locked["lastModified"] = 1.into();
    let nodes = serde_json::json!({
        "dep": { "locked": locked, "original": original }, "root": { "inputs": { "dep": "dep" } }
    });
    let lock = serde_json::json!({ "nodes": nodes, "root": "root", "version": 7 });
    flake.write(&format!("{odd}/flake.lock"), &lock.to_string());
    let rev = flake.commit("with a lock");
    let built = build(nix, &flake.at(nix, &rev).await.in_dir(odd)).await;
    assert_eq!(std::fs::read_to_string(built).unwrap(), format!("{rev} from the input\nhere\nabove\n"));
    let elsewhere = flake.at(nix, &rev).await.in_dir("nosuch");
    let none = nix.evaluate_package(&elsewhere, "default", None).await.unwrap_err();
    assert_eq!(none.problem(), Some(&Problem::NoFlake), "{none:?}");
    let checks = nix.evaluate_checks(&flake.at(nix, &rev).await.in_dir(odd), None).await.unwrap();
    assert!(checks.is_empty());
}

/// The state after a power cut: the database has the path, but the disk does not have the files.
#[tokio::test]
async fn a_source_that_the_store_has_lost_is_added_again() {
    let Some(store) = Store::relocated().await else { return };
    let (nix, root) = (&store.nix, store.path("root"));
    let source = store.path("source");
    init(&source);
    std::fs::write(source.join("file"), "as it was").unwrap();
    commit(&source, "one");
    let (added, hash) = nix.add_rooted(&source, &root).await.unwrap();
    assert_eq!(std::fs::read_link(&root).unwrap(), added);
    let file = added.join("file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&file, "").unwrap();
    assert!(!nix.verify_path(&added).await.unwrap());
    // Wait until the copy is old enough to be checked.
    let made = std::time::UNIX_EPOCH + std::time::Duration::from_secs(added.metadata().unwrap().ctime().unsigned_abs());
    while made.elapsed().unwrap() < std::time::Duration::from_millis(1100) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(nix.add_rooted(&source, &root).await.unwrap(), (added.clone(), hash));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "as it was");
    store.run("nix-store", &["--gc"]);
    assert!(file.exists());
}
