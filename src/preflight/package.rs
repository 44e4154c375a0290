//! The package that rei.toml names, and its program.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::Config;
use crate::executable::Role;
use crate::nix::{Error, Failure};
use crate::runtime::isolation;
use crate::runtime::spawn::{BadInterpreter, PATH, SpawnError, Step};
use crate::source::ObjectId;

/// What is read of a program to see its format, in bytes.
const FORMAT_BYTES: u64 = 4;

/// The next step if the package of a commit does not evaluate.
pub fn evaluation_hint(config: &Config, commit: &ObjectId, error: &Error) -> String {
    error.hint().unwrap_or_else(|| {
        let (source, package) = (&config.runtime.source, &config.runtime.package);
        format!("see it in full: git -C {source} checkout --detach {commit}, and there: nix build .#{package}")
    })
}

/// The next step if a derivation is not built.
pub fn build_hint(failure: &Failure, drv: &Path) -> String {
    failure.hint(drv).unwrap_or_else(|| format!("nix log {}", drv.display()))
}

/// What is wrong with a program, as the error of a real start.
pub(super) enum Misfit {
    /// The start fails: the file does not exist, is not a program, or one of its interpreters cannot be executed.
    Fails(SpawnError),
    /// `env` will probably not find or not execute what the first line of a script asks for.
    Doubtful(SpawnError),
}

/// What is wrong with the program of an instance. `store` is the Nix store.
pub(super) fn unfit_program(config: &Config, store: &Path, program: &Path) -> Option<Misfit> {
    let refused = |code: i32| {
        let source = io::Error::from_raw_os_error(code);
        Some(Misfit::Fails(child(program, None, source)))
    };
    let about = match std::fs::metadata(program) {
        Ok(about) => about,
        Err(error) => return refused(error.raw_os_error().unwrap_or(libc::ENOENT)),
    };
    if !about.is_file() || about.permissions().mode() & 0o111 == 0 {
        return refused(libc::EACCES);
    }
    let path = config.runtime.env.get("PATH").map_or(PATH, String::as_str);
    let may_execute = |file: &Path| isolation::may_execute(&config.isolation, store, file);
    if let Some(bad) = BadInterpreter::find(program, OsStr::new(path), may_execute) {
        let source = io::Error::from_raw_os_error(bad.errno());
        return Some(match bad.unfit.interpreter.role {
            Role::Sought => Misfit::Doubtful(child(program, Some(bad), source)),
            Role::Script | Role::Loader => Misfit::Fails(child(program, Some(bad), source)),
        });
    }
    match first_bytes(program) {
        Ok(first) if first.starts_with(b"#!") || first.starts_with(b"\x7fELF") || runs_other_formats() => None,
        Ok(_) => refused(libc::ENOEXEC),
        Err(error) => refused(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

fn child(program: &Path, interpreter: Option<BadInterpreter>, source: io::Error) -> SpawnError {
    let interpreter = interpreter.map(Box::new);
    SpawnError::Child { program: program.to_owned(), step: Step::Exec, interpreter, source }
}

/// Whether the kernel was taught to run other files than ELF programs and scripts.
fn runs_other_formats() -> bool {
    let formats = std::fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
    formats.map(|format| format.file_name()).any(|name| name != "register" && name != "status")
}

fn first_bytes(program: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(program)?.take(FORMAT_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration whose instances may execute what these directories have.
    fn config(execute: &[&Path]) -> Config {
        let text = format!(
            "[runtime]\nname = \"x\"\nsource = \"/srv/x\"\ncommand = [\"bin/x\"]\n[isolation]\nexecute = {execute:?}\n"
        );
        let place = crate::config::Place { directory: "/etc/rei".into(), root: true, state_home: None };
        Config::from_toml(&text, &place).unwrap()
    }

    #[test]
    fn a_program_that_cannot_start_is_told_as_the_start_would() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        let all = config(&[Path::new("/usr"), Path::new("/bin"), Path::new("/lib")]);
        let why = |config: &Config, text: Option<&str>, mode: u32| {
            if let Some(text) = text {
                std::fs::write(&program, text).unwrap();
                std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
            }
            match unfit_program(config, dir.path(), &program) {
                Some(Misfit::Fails(error)) => error.hint().unwrap(),
                Some(Misfit::Doubtful(error)) => format!("doubtful: {}", error.hint().unwrap()),
                None => String::new(),
            }
        };
        assert!(why(&all, None, 0).contains("a program that the package does not have"));
        assert!(why(&all, Some("#!/bin/sh\n"), 0o644).contains("must be executable"));
        let absent = why(&all, Some("#!/nonexistent/sh -e\n"), 0o755);
        assert!(absent.contains("its interpreter does not exist") && absent.contains("/nonexistent/sh"), "{absent}");
        assert!(runs_other_formats() || why(&all, Some("echo hello\n"), 0o755).contains("is not a program"));
        assert_eq!(why(&all, Some("#! /bin/sh\n"), 0o755), "");
        // Outside of the store, with Landlock.
        let sandbox = crate::runtime::isolation::Sandbox::builder().build().unwrap();
        if sandbox.may_execute(Path::new("/usr")) {
            return;
        }
        let none = config(&[]);
        let shell = why(&none, Some("#!/bin/sh\n"), 0o755);
        assert!(shell.starts_with("/bin/sh is not in the Nix store"), "{shell}");
        assert!(shell.contains("isolation.execute = [\"/") && shell.contains("patchShebangs"), "{shell}");
        assert!(why(&none, Some("#!/usr/bin/env no-such-program\n"), 0o755).starts_with("/usr/bin/env is not"));
        let sought = why(&all, Some("#!/usr/bin/env no-such-program\n"), 0o755);
        assert!(sought.starts_with("doubtful: its interpreter does not exist"), "{sought}");
        assert!(sought.contains("no-such-program"), "{sought}");
    }
}
