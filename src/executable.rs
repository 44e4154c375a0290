//! What the kernel executes to start a program: the interpreter of a script, and the loader of an ELF program.
//!
//! exec reports the error of an interpreter as if it were the program's own: `#!/usr/bin/python3` in a place where that
//! may not be executed is "Permission denied" for a script with the right mode. So rei reads the program to find which
//! file it was.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// Maximum length of the first line of a script, in bytes: the kernel reads no more.
const FIRST_LINE_BYTES_MAX: usize = 256;
/// Maximum number of interpreters of a program: the kernel refuses more than four scripts that name each other. One is
/// their program, one its loader, and `env` looks for one more.
const INTERPRETERS_MAX: usize = 7;
/// Maximum number of program headers of an ELF file that are read: usual are a dozen.
const HEADERS_MAX: u16 = 256;
/// Maximum length of the loader's path in an ELF file, in bytes: the kernel takes no longer one.
const LOADER_BYTES_MAX: u64 = 4096;

/// A file that another file needs to be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// Its path as the other file names it, or its name if it was not found.
    pub path: PathBuf,
    /// The other file.
    pub of: PathBuf,
    /// How the other file names it.
    pub role: Role,
}

/// How a file names its interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The first line of a script.
    Script,
    /// The loader in the header of an ELF program: `ld-linux.so`.
    Loader,
    /// The argument of `env` in the first line of a script. `env` looks for it in `PATH`.
    Sought,
}

/// Why a file cannot be an interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It does not exist.
    Absent,
    /// It is not an executable file.
    NotExecutable,
    /// It may not be executed here.
    Forbidden,
}

/// An interpreter with its obstacle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The interpreter.
    pub interpreter: Interpreter,
    /// Its obstacle.
    pub obstacle: Obstacle,
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.interpreter.role {
            Role::Script => "interpreter",
            Role::Loader => "loader",
            Role::Sought => "interpreter (which env looks for in PATH)",
        };
        write!(f, "{what} {}", self.interpreter.path.display())
    }
}

/// All files that are executed to start a program, besides the program: its interpreter, the interpreter's loader, and so
/// on. `path` is the `PATH` of the program.
pub fn interpreters(program: &Path, path: &OsStr) -> Vec<Interpreter> {
    let (mut found, mut of) = (Vec::new(), program.to_owned());
    while found.len() < INTERPRETERS_MAX {
        // A file that cannot be read names no interpreter that could be found.
        let Ok(Some((named, role, argument))) = named_by(&of) else { break };
        let interpreter = Interpreter { path: named.clone(), of: of.clone(), role };
        let sought = argument.filter(|_| named.file_name() == Some(OsStr::new("env")));
        found.push(interpreter);
        if let Some(name) = sought {
            // The loader of `env` itself comes before the program that it looks for.
            if let Ok(Some((loader, Role::Loader, _))) = named_by(&named) {
                found.push(Interpreter { path: loader, of: named.clone(), role: Role::Loader });
            }
            let place = in_path(&name, path).unwrap_or_else(|| PathBuf::from(&name));
            found.push(Interpreter { path: place.clone(), of: named, role: Role::Sought });
            of = place;
        } else {
            of = named;
        }
    }
    found
}

/// The first interpreter of a program that cannot be executed. `may_execute` tells whether a path without symbolic links
/// may be executed.
pub fn unfit(program: &Path, path: &OsStr, may_execute: impl Fn(&Path) -> bool) -> Option<Unfit> {
    let obstacle = |path: &Path| match (path.canonicalize(), path.metadata()) {
        (Ok(real), Ok(about)) => match about.is_file() && about.permissions().mode() & 0o111 != 0 {
            true if may_execute(&real) => None,
            true => Some(Obstacle::Forbidden),
            false => Some(Obstacle::NotExecutable),
        },
        _ => Some(Obstacle::Absent),
    };
    interpreters(program, path).into_iter().find_map(|interpreter| {
        let obstacle = obstacle(&interpreter.path)?;
        Some(Unfit { interpreter, obstacle })
    })
}

/// The directories with a program's interpreters and their libraries: what must be allowed so that it can start. Files
/// below `allowed` are left out.
pub fn places(program: &Path, path: &OsStr, allowed: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    for interpreter in interpreters(program, path) {
        let Ok(real) = interpreter.path.canonicalize() else { continue };
        if !allowed(&real) && !places.iter().any(|place| real.starts_with(place)) {
            places.push(home_of(&real));
        }
    }
    // On most systems these are links into /usr, but in a sandbox of Nix they are directories.
    let is_in_a_place =
        |path: &Path| path.canonicalize().is_ok_and(|real| places.iter().any(|it| real.starts_with(it)));
    let links =
        ["/lib", "/lib64"].map(PathBuf::from).into_iter().filter(|path| !places.contains(path) && is_in_a_place(path));
    let links: Vec<PathBuf> = links.collect();
    places.into_iter().chain(links).collect()
}

/// The directory of the system with a file, or the directory that has its `bin`: libraries and modules are there too.
fn home_of(file: &Path) -> PathBuf {
    const SYSTEM: [&str; 5] = ["/usr", "/bin", "/sbin", "/lib", "/lib64"];
    if let Some(dir) = SYSTEM.iter().find(|dir| file.starts_with(dir)) {
        return PathBuf::from(dir);
    }
    let dir = file.parent().unwrap_or(file);
    let above = dir.parent().filter(|above| dir.ends_with("bin") && *above != Path::new("/"));
    above.unwrap_or(dir).to_owned()
}

/// The file that a file names as its interpreter, and the argument in the first line of a script.
fn named_by(file: &Path) -> io::Result<Option<(PathBuf, Role, Option<OsString>)>> {
    let file = open_file(file)?;
    let mut start = Vec::new();
    (&file).take(FIRST_LINE_BYTES_MAX as u64).read_to_end(&mut start)?;
    if let Some(line) = start.strip_prefix(b"#!") {
        return Ok(first_line(line).map(|(path, argument)| (path, Role::Script, argument)));
    }
    Ok(loader(&file, &start)?.map(|path| (path, Role::Loader, None)))
}

/// Opens a regular file: a FIFO with the name of a program would never end.
fn open_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// The interpreter in the first line of a script, and the program that its argument names.
fn first_line(line: &[u8]) -> Option<(PathBuf, Option<OsString>)> {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    let mut words = line.split(|byte| *byte == b' ' || *byte == b'\t').filter(|word| !word.is_empty());
    let word = |word: &[u8]| OsStr::from_bytes(word).to_owned();
    let interpreter = PathBuf::from(word(words.next()?));
    // `env -S NAME=VALUE program argument`.
    let argument = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='));
    // The kernel resolves a relative path in the working directory; that of an instance is not the package's.
    Some((if interpreter.is_absolute() { interpreter } else { Path::new("/").join(interpreter) }, argument.map(word)))
}

/// The loader that an ELF program names (`PT_INTERP`); `None` if it is static or no ELF program.
fn loader(file: &File, start: &[u8]) -> io::Result<Option<PathBuf>> {
    const PT_INTERP: u64 = 3;
    /// Where a field is in a header: 32-bit and 64-bit.
    struct Layout {
        table: (usize, usize),
        entry: usize,
        count: usize,
        offset: (usize, usize),
        size: (usize, usize),
    }
    const BITS_64: Layout = Layout { table: (32, 8), entry: 54, count: 56, offset: (8, 8), size: (32, 8) };
    const BITS_32: Layout = Layout { table: (28, 4), entry: 42, count: 44, offset: (4, 4), size: (16, 4) };
    let (layout, little) = match start.get(..6) {
        Some([0x7f, b'E', b'L', b'F', class @ (1 | 2), order @ (1 | 2)]) => {
            (if *class == 2 { BITS_64 } else { BITS_32 }, *order == 1)
        }
        _ => return Ok(None),
    };
    let number = |bytes: &[u8], (at, length): (usize, usize)| {
        let bytes = bytes.get(at..at + length)?;
        let digits: Vec<u8> = if little { bytes.iter().rev().copied().collect() } else { bytes.to_vec() };
        Some(digits.into_iter().fold(0_u64, |number, byte| number << 8 | u64::from(byte)))
    };
    let header = |field| number(start, field).ok_or(io::ErrorKind::UnexpectedEof);
    let (table, entry) = (header(layout.table)?, header((layout.entry, 2))?);
    let count = header((layout.count, 2))?.min(u64::from(HEADERS_MAX));
    let mut bytes = [0; 56];
    for index in 0..count {
        let Some(at) = entry.checked_mul(index).and_then(|at| at.checked_add(table)) else { break };
        let read = file.read_at(&mut bytes, at)?;
        let program = &bytes[..read];
        if number(program, (0, 4)) != Some(PT_INTERP) {
            continue;
        }
        let (Some(offset), Some(size)) = (number(program, layout.offset), number(program, layout.size)) else { break };
        let mut name = vec![0; usize::try_from(size.min(LOADER_BYTES_MAX)).unwrap_or_default()];
        let read = file.read_at(&mut name, offset)?;
        name.truncate(name[..read].iter().position(|byte| *byte == 0).unwrap_or(read));
        return Ok(Some(OsString::from_vec(name).into()));
    }
    Ok(None)
}

/// The file that `env` executes for a name.
fn in_path(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    if Path::new(name).components().any(|part| part == Component::RootDir) {
        return Some(name.into());
    }
    let is_program =
        |file: &PathBuf| file.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0);
    std::env::split_paths(path).map(|dir| dir.join(name)).find(is_program)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lab(tempfile::TempDir);

    impl Lab {
        fn file(&self, name: &str, text: &[u8]) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        }

        /// An ELF program of 64 bits with this loader.
        fn elf(&self, name: &str, loader: &str) -> PathBuf {
            let mut bytes = vec![0_u8; 64 + 56];
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            bytes[32] = 64; // the table of program headers
            bytes[54] = 56; // the size of one
            bytes[56] = 1; // their number
            bytes[64] = 3; // PT_INTERP
            bytes[64 + 8] = 120; // its offset
            bytes[64 + 32] = u8::try_from(loader.len() + 1).unwrap(); // its size
            bytes.extend_from_slice(loader.as_bytes());
            bytes.push(0);
            self.file(name, &bytes)
        }
    }

    fn named(program: &Path, path: &str) -> Vec<(PathBuf, Role)> {
        interpreters(program, OsStr::new(path)).into_iter().map(|it| (it.path, it.role)).collect()
    }

    #[test]
    fn each_file_that_the_kernel_executes_is_found() {
        let lab = Lab(tempfile::tempdir().unwrap());
        let path = |path: &str| PathBuf::from(path);
        let elf = lab.elf("bin/elf", "/lib/ld.so");
        assert_eq!(named(&elf, ""), [(path("/lib/ld.so"), Role::Loader)]);
        let script = lab.file("script", format!("#! \t{} -e\necho\n", elf.display()).as_bytes());
        assert_eq!(named(&script, ""), [(elf.clone(), Role::Script), (path("/lib/ld.so"), Role::Loader)]);
        let outer = lab.file("outer", format!("#!{}", script.display()).as_bytes());
        assert_eq!(named(&outer, "").len(), 3);
        let env = lab.file("usr/bin/env", b"static");
        let sought = lab.file("sought", format!("#!{} -S X=1 elf -x\n", env.display()).as_bytes());
        let bin = lab.0.path().join("bin");
        let all = [(env.clone(), Role::Script), (elf, Role::Sought), (path("/lib/ld.so"), Role::Loader)];
        assert_eq!(named(&sought, bin.to_str().unwrap()), all);
        assert_eq!(named(&sought, "/nonexistent"), [(env, Role::Script), (path("elf"), Role::Sought)]);
        // A real program of this machine, whatever it is.
        for found in interpreters(Path::new("/bin/sh"), OsStr::new("")) {
            assert!(found.role == Role::Loader && found.path.is_absolute(), "{found:?}");
        }
    }

    #[test]
    fn a_hostile_file_ends_the_search() {
        let lab = Lab(tempfile::tempdir().unwrap());
        let me = lab.0.path().join("me");
        let me = lab.file("me", format!("#!{}\n", me.display()).as_bytes());
        assert_eq!(interpreters(&me, OsStr::new("")).len(), INTERPRETERS_MAX);
        nix::unistd::mkfifo(&lab.0.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(interpreters(&lab.0.path().join("fifo"), OsStr::new("")), []);
        let mut endless = vec![0xff_u8; 64];
        endless[..6].copy_from_slice(b"\x7fELF\x02\x01");
        for bytes in [&b""[..], b"#!", b"#!\n", b"\x7fELF", b"\x7fELF\x02\x01", &endless, &[b'#', b'!', 0xff, b'\n']] {
            let file = lab.file("hostile", bytes);
            assert!(interpreters(&file, OsStr::new("")).len() <= 1, "{bytes:?}");
        }
    }

    #[test]
    fn the_first_obstacle_is_named_and_what_would_remove_it() {
        let lab = Lab(tempfile::tempdir().unwrap());
        let dir = lab.0.path().canonicalize().unwrap();
        let loader = lab.file("opt/python/lib/ld.so", b"static");
        let python = lab.elf("opt/python/bin/python", loader.to_str().unwrap());
        let script = lab.file("script", format!("#!{}\n", python.display()).as_bytes());
        let none = OsStr::new("");
        let obstacle = |allowed: &Path| unfit(&script, none, |path| path.starts_with(allowed));
        let found = obstacle(Path::new("/nonexistent")).unwrap();
        assert_eq!((&found.interpreter.path, found.obstacle), (&python, Obstacle::Forbidden));
        assert_eq!(found.to_string(), format!("interpreter {}", python.display()));
        let found = obstacle(&dir.join("opt/python/bin")).unwrap();
        assert_eq!((found.interpreter.role, found.obstacle), (Role::Loader, Obstacle::Forbidden));
        assert_eq!(obstacle(&dir), None);
        let places = places(&script, none, |_| false);
        assert_eq!(places, [dir.join("opt/python"),]);
        std::fs::set_permissions(&loader, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(obstacle(&dir).unwrap().obstacle, Obstacle::NotExecutable);
        std::fs::remove_file(&python).unwrap();
        assert_eq!(obstacle(&dir).unwrap().obstacle, Obstacle::Absent);
        assert_eq!(home_of(Path::new("/usr/lib/x/ld.so")), Path::new("/usr"));
    }
}
