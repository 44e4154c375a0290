//! The package that rei.toml names, and its program.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::Config;
use crate::nix::{Error, Failure};
use crate::runtime::spawn::{SpawnError, Step};
use crate::source::ObjectId;

/// The first line of a script, in bytes: what the kernel reads of it.
const FIRST_LINE_BYTES_MAX: usize = 256;

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

/// Why a program could not be started, as the error of a real start: the file does not exist, or is not a program.
pub(super) fn unfit_program(program: &Path) -> Option<SpawnError> {
    let refused = |code: i32| {
        let source = io::Error::from_raw_os_error(code);
        Some(SpawnError::Child { program: program.to_owned(), step: Step::Exec, source })
    };
    let about = match std::fs::metadata(program) {
        Ok(about) => about,
        Err(error) => return refused(error.raw_os_error().unwrap_or(libc::ENOENT)),
    };
    if !about.is_file() || about.permissions().mode() & 0o111 == 0 {
        return refused(libc::EACCES);
    }
    let first = match first_bytes(program) {
        Ok(first) => first,
        Err(error) => return refused(error.raw_os_error().unwrap_or(libc::EIO)),
    };
    if let Some(line) = first.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
        let interpreter = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let interpreter = Path::new(std::ffi::OsStr::new(std::str::from_utf8(interpreter).unwrap_or_default()));
        return if interpreter.is_file() { None } else { refused(libc::ENOENT) };
    }
    if first.starts_with(b"\x7fELF") || runs_other_formats() { None } else { refused(libc::ENOEXEC) }
}

/// Whether the kernel was taught to run other files than ELF programs and scripts.
fn runs_other_formats() -> bool {
    let formats = std::fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
    formats.map(|format| format.file_name()).any(|name| name != "register" && name != "status")
}

fn first_bytes(program: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let bound = u64::try_from(FIRST_LINE_BYTES_MAX).unwrap_or(u64::MAX);
    std::fs::File::open(program)?.take(bound).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_cannot_start_is_told_as_the_start_would() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        let why = |text: Option<&str>, mode: u32| {
            if let Some(text) = text {
                std::fs::write(&program, text).unwrap();
                std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
            }
            unfit_program(&program).and_then(|error| error.hint()).unwrap_or_default()
        };
        assert!(why(None, 0).contains("a program that the package does not have"));
        assert!(why(Some("#!/bin/sh\n"), 0o644).contains("must be executable"));
        assert!(why(Some("#!/nonexistent/sh -e\n"), 0o755).contains("its interpreter does not exist"));
        assert!(runs_other_formats() || why(Some("echo hello\n"), 0o755).contains("is not a program"));
        assert_eq!(why(Some("#! /bin/sh\n"), 0o755), "");
        assert!(unfit_program(&std::env::current_exe().unwrap()).is_none());
    }
}
