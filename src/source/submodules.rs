//! Submodules: fetches the commits that a tree pins, so that their files are a part of what is compared and built.
//!
//! A commit has only the name of a submodule's commit, and `.gitmodules` has the address of its repository. The name
//! fixes the content, so it does not matter from where the objects come. But the address matters to this machine: a
//! candidate may have written it, and rei has keys and reads files that the candidate must not reach. So:
//!
//! - Nothing is fetched unless the operator switched it on, and never an object that is here already. A workspace has
//!   the submodules of its commit before an agent sees it, and an agent's commit cannot pin another one. So an address
//!   that an agent writes is never used.
//! - The transports are those that git allows for submodules ([`super::address`]).
//! - A path of this machine is used only if the source is on this machine, and only below the directory that has the
//!   source: the repositories beside it. Never below the state directory, where agents write.
//! - Number, depth, files, bytes and time are bounded.
//!
//! The objects are in a repository of their own beside the mirror, which is shallow: one commit each, no history.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::{Address, resolve, without_password};
use super::error::Error;
use super::git::{FETCH_TIMEOUT, GRACE, Git, LOCAL_TIMEOUT, answer, config_text};
use super::locks;
use super::mirror::Mirror;
use super::parse::{ObjectId, SubmoduleEntry, TreeFile, parse_remote_refs, parse_submodules, parse_tree, reason_lines};
use super::places::common_dir;

/// Maximum number of files of a commit and its submodules, so that a list of them fits into memory: twice the number of
/// Linux.
pub(super) const FILES_MAX: usize = 200_000;
/// Maximum number of bytes of these files: a larger repository stores data and not source.
pub(super) const BYTES_MAX: u64 = 4 << 30;
/// Maximum number of submodules of a commit, with nested ones: large projects have some dozens.
const SUBMODULES_MAX: usize = 128;
/// Maximum depth of nested submodules.
const DEPTH_MAX: usize = 8;
/// Timeout of the fetches of all submodules of a commit.
const ALL_TIMEOUT: Duration = Duration::from_secs(900);
/// Maximum size of `.gitmodules`, in bytes: some lines for each submodule.
const GITMODULES_BYTES_MAX: usize = 64 << 10;
/// The prefix of the refs that keep the commits of submodules: `refs/rei/of/COMMIT/SUBMODULE'S COMMIT`.
const PINNED: &str = "refs/rei/of/";
/// The transports of a submodule on another machine. `file` is missing: rei allows it for one path at a time.
const REMOTE_PROTOCOLS: &str = "git:http:https:ssh";

/// The files of a commit or of one of its submodules.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The directory of the submodule; empty for the commit itself.
    pub at: PathBuf,
    /// Its files, relative to that directory.
    pub files: Vec<TreeFile>,
    /// The repository with its objects.
    pub git: Git,
    depth: usize,
    /// The address from which relative addresses are resolved; the reason if it is not valid.
    address: Result<Address, String>,
    /// The directory with the repositories of its submodules in the source's own `.git`.
    modules: Option<PathBuf>,
}

impl Mirror {
    /// The same mirror; if `submodules` is true, the files of submodules are a part of a commit's files.
    #[must_use]
    pub fn with_submodules(mut self, submodules: bool) -> Self {
        self.submodules = submodules;
        self
    }

    /// True if the files of submodules are a part of a commit's files.
    pub fn has_submodules(&self) -> bool {
        self.submodules
    }

    /// Every file that a build of a commit has: those of [`Mirror::files`] and, if they are switched on, those of the
    /// submodules. A submodule itself is in the list too.
    ///
    /// # Errors
    /// If the mirror has no such commit, or a submodule cannot be fetched.
    pub async fn built_files(&self, commit: &ObjectId) -> Result<Vec<TreeFile>, Error> {
        let parts = self.parts(commit).await?;
        let placed = |part: Part| {
            let Part { at, files, .. } = part;
            files.into_iter().map(move |file| TreeFile { path: at.join(&file.path), ..file })
        };
        Ok(parts.into_iter().flat_map(placed).collect())
    }

    /// The commit and, if they are switched on, its submodules: each after the part that pins it.
    pub(super) async fn parts(&self, commit: &ObjectId) -> Result<Vec<Part>, Error> {
        let modules = self.source_dir().and_then(|dir| common_dir(&dir)).map(|dir| dir.join("modules"));
        let address = Address::parse(self.source()).map_err(str::to_owned);
        let files = self.files(commit).await?;
        let root = Part { at: PathBuf::new(), files, git: self.git(), depth: 0, address, modules };
        if !self.submodules || !root.files.iter().any(TreeFile::is_submodule) {
            return Ok(vec![root]);
        }
        let late = |_| Error::LargeTree {
            commit: commit.clone(),
            what: format!("what rei can fetch of submodules in {} minutes", ALL_TIMEOUT.as_secs() / 60),
        };
        tokio::time::timeout(ALL_TIMEOUT, self.with_pinned(commit, root)).await.map_err(late)?
    }

    async fn with_pinned(&self, commit: &ObjectId, root: Part) -> Result<Vec<Part>, Error> {
        let large = |what: String| Error::LargeTree { commit: commit.clone(), what };
        // A packing of the mirror does not touch the other repository, but its lock files are of this process too.
        self.prepare_submodules().await?;
        let packs_before = bytes_in(&self.submodules_dir().join("objects/pack"));
        let (mut parts, mut next, mut files) = (vec![root], 0, 0);
        while let Some(part) = parts.get(next).cloned() {
            next += 1;
            files += part.files.len();
            if files > FILES_MAX {
                return Err(large(format!("{FILES_MAX} files")));
            }
            let pinned: Vec<&TreeFile> = part.files.iter().filter(|file| file.is_submodule()).collect();
            if pinned.is_empty() {
                continue;
            }
            if part.depth >= DEPTH_MAX {
                return Err(large(format!("{DEPTH_MAX} submodules inside each other")));
            }
            if parts.len() + pinned.len() > SUBMODULES_MAX + 1 {
                return Err(large(format!("{SUBMODULES_MAX} submodules")));
            }
            let entries = entries(&part).await?;
            for file in pinned {
                let wanted = Wanted::of(commit, &part, file, &entries);
                let fetched = bytes_in(&self.submodules_dir().join("objects/pack")).saturating_sub(packs_before);
                self.bring(&wanted, BYTES_MAX.saturating_sub(fetched)).await?;
                parts.push(self.part(wanted, part.depth + 1).await?);
            }
        }
        Ok(parts)
    }

    async fn part(&self, wanted: Wanted<'_>, depth: usize) -> Result<Part, Error> {
        let (git, doing) = (self.submodules_git(), "list the files of a submodule");
        let stdout = git.run(doing, ["ls-tree", "-r", "-z", "--full-tree", wanted.pin.as_str()]).await?;
        let files = parse_tree(&stdout).ok_or_else(|| answer(doing, &stdout))?;
        let modules = wanted.own.map(|own| own.join("modules"));
        Ok(Part { at: wanted.at, files, git, depth, address: wanted.address, modules })
    }

    /// Fetches a submodule's commit unless it is here, and keeps it for the commit that pins it.
    async fn bring(&self, wanted: &Wanted<'_>, bytes_max: u64) -> Result<(), Error> {
        // One fetch at a time: two evolutions may need the same commit.
        let _alone = self.fetching.lock().await;
        let git = self.submodules_git();
        let kept = format!("{PINNED}{}/{}", wanted.commit, wanted.pin);
        let pointing = format!("--points-at={}", wanted.pin);
        let listed =
            git.run("look for a submodule", ["for-each-ref", &pointing, "--format=%(refname)", PINNED]).await?;
        let listed = String::from_utf8_lossy(&listed);
        if listed.lines().any(|name| name == kept) {
            return Ok(());
        }
        if !listed.is_empty() {
            let args = ["update-ref", "--no-deref", &kept, wanted.pin.as_str()];
            return super::mirror::expect_success("keep a submodule", &git.finish("keep a submodule", &args).await?);
        }
        let refspec = format!("+{}:{kept}", wanted.pin);
        if let Some(own) = wanted.own.as_ref().filter(|own| own.join("HEAD").exists()) {
            // The source's own copy. If it lacks the commit, the address is asked.
            let address = Address::Local(own.clone());
            if self.fetch_submodule(&address, &refspec, bytes_max).await?.is_none() {
                return Ok(());
            }
        }
        let unfit = |why: String| Error::UnfitSubmodule { commit: wanted.commit.clone(), path: wanted.at.clone(), why };
        let address = wanted.address.clone().map_err(unfit)?;
        let address = self.allowed(&address).map_err(|refused| match refused {
            Refused::Forbidden(why) => unfit(why),
            Refused::Absent => unreachable(wanted, address.shown(), "there is no such directory".into()),
        })?;
        match self.fetch_submodule(&address, &refspec, bytes_max).await? {
            None => Ok(()),
            Some(said) => Err(unreachable(wanted, address.shown(), said)),
        }
    }

    /// Fetches one commit. Returns git's message if that failed.
    async fn fetch_submodule(&self, from: &Address, refspec: &str, bytes_max: u64) -> Result<Option<String>, Error> {
        let (trusted, protocols) = match from {
            Address::Local(path) => (vec![path.clone(), path.join(".git")], "file"),
            Address::Remote(_) => (Vec::new(), REMOTE_PROTOCOLS),
        };
        let file = self.submodules_config();
        std::fs::write(&file, config_text(&trusted)).map_err(|source| Error::Io {
            doing: "write",
            path: file.clone(),
            source,
        })?;
        let git = self.submodules_git().network().env("GIT_ALLOW_PROTOCOL", protocols);
        let from = from.for_git();
        // All objects go to one pack, whose size the limit of files bounds.
        let args = ["-c", "fetch.unpackLimit=1", "fetch", "--quiet", "--no-tags", "--no-write-fetch-head"];
        let more = ["--no-recurse-submodules", "--no-auto-maintenance", "--update-shallow", "--depth=1", "--", &from];
        let args = args.into_iter().chain(more).chain([refspec]);
        let doing = "fetch a submodule";
        let command = git.command(FETCH_TIMEOUT, args).file_bytes_max(bytes_max);
        let output = command.run().await.map_err(|source| Error::Run { doing, source })?;
        Ok((!output.success()).then(|| reason_lines(&output.stderr_text())))
    }

    /// The address in the form in which rei fetches from it, if it may.
    fn allowed(&self, address: &Address) -> Result<Address, Refused> {
        let Address::Local(path) = address else { return Ok(address.clone()) };
        let forbidden = |why: &str| Refused::Forbidden(format!("names {}, {why}", path.display()));
        let Some(source) = self.source_dir().and_then(|dir| dir.canonicalize().ok()) else {
            return Err(forbidden("a directory of this machine, and runtime.source is on another machine"));
        };
        let beside = source.parent().filter(|dir| *dir != Path::new("/")).unwrap_or(&source);
        let Ok(real) = path.canonicalize() else {
            // Whether another place exists is nothing that a candidate may find out.
            let inside = lexically_below(path, beside);
            return Err(if inside { Refused::Absent } else { forbidden("which is not beside runtime.source") });
        };
        let state = self.state_dir().canonicalize().unwrap_or_else(|_| self.state_dir().to_owned());
        if !real.starts_with(beside) {
            return Err(forbidden("which is not beside runtime.source"));
        }
        if real.starts_with(&state) {
            return Err(forbidden("which is in rei's state directory"));
        }
        Ok(Address::Local(real))
    }

    /// The repository with the submodules' objects.
    pub(super) fn submodules_dir(&self) -> PathBuf {
        self.state_dir().join("source/submodules.git")
    }

    fn submodules_config(&self) -> PathBuf {
        self.state_dir().join("source/gitconfig-submodules")
    }

    pub(super) fn submodules_git(&self) -> Git {
        Git::at(self.submodules_dir(), self.submodules_config())
    }

    async fn prepare_submodules(&self) -> Result<(), Error> {
        let _alone = self.fetching.lock().await;
        if !self.submodules_dir().join("HEAD").exists() {
            let args = ["init", "--quiet", "--bare", "--template=", "--object-format=sha1", "--initial-branch=none"];
            self.submodules_git().run("make a repository for submodules", args).await?;
        }
        locks::clear(&self.submodules_dir(), GRACE).await
    }

    /// Drops the submodules' commits that no commit with a ref in the mirror pins.
    pub(super) async fn keep_pinned_submodules(&self) -> Result<(), Error> {
        if !self.submodules_dir().join("HEAD").exists() {
            return Ok(());
        }
        let doing = "list the refs of the mirror";
        let args = ["for-each-ref", "--format=%(objectname)%0a%(*objectname)"];
        let kept = self.git().run(doing, args).await?;
        let kept = String::from_utf8_lossy(&kept).into_owned();
        let (git, doing) = (self.submodules_git(), "forget a submodule");
        let refs = git.run(doing, ["for-each-ref", "--format=%(objectname)%09%(refname)", PINNED]).await?;
        for pinned in parse_remote_refs(&refs).ok_or_else(|| answer(doing, &refs))? {
            let of = pinned.name.strip_prefix(PINNED).and_then(|rest| rest.split('/').next()).unwrap_or_default();
            if !kept.lines().any(|commit| commit == of) {
                let output = git.finish(doing, &["update-ref", "--no-deref", "-d", &pinned.name]).await?;
                super::mirror::expect_success(doing, &output)?;
            }
        }
        Ok(())
    }
}

/// A submodule's commit, and where it can be.
struct Wanted<'a> {
    /// The commit of the source that pins it, directly or through other submodules.
    commit: &'a ObjectId,
    pin: &'a ObjectId,
    at: PathBuf,
    address: Result<Address, String>,
    /// Its repository in the source's own `.git`.
    own: Option<PathBuf>,
}

impl<'a> Wanted<'a> {
    fn of(commit: &'a ObjectId, part: &Part, file: &'a TreeFile, entries: &[SubmoduleEntry]) -> Self {
        let entry = entries.iter().find(|entry| entry.path == file.path);
        let address = match entry.and_then(|entry| entry.url.as_deref()) {
            None => Err("has no URL in .gitmodules".to_owned()),
            Some(url) => part
                .address
                .clone()
                .and_then(|base| resolve(&base, url).map_err(|why| format!("{why}: {}", without_password(url)))),
        };
        // As git does, refuse a name that leads to another place.
        let name = entry.map(|entry| Path::new(&entry.name)).filter(|name| {
            let normal = |part| matches!(part, std::path::Component::Normal(_));
            !name.as_os_str().is_empty() && name.components().all(normal)
        });
        let own = part.modules.as_ref().zip(name).map(|(modules, name)| modules.join(name));
        let own = own.filter(|own| {
            let inside = |modules: &PathBuf| Some(own.canonicalize().ok()?.starts_with(modules.canonicalize().ok()?));
            part.modules.as_ref().and_then(inside) == Some(true)
        });
        Self { commit, pin: &file.blob, at: part.at.join(&file.path), address, own }
    }
}

/// Why rei does not fetch from an address.
enum Refused {
    Forbidden(String),
    Absent,
}

fn unreachable(wanted: &Wanted<'_>, url: String, said: String) -> Error {
    Error::SubmoduleUnreachable { path: wanted.at.clone(), url, pin: wanted.pin.clone(), said }
}

/// The entries of `.gitmodules`; none if the part has no such file. As git does, rei ignores one that is a link.
async fn entries(part: &Part) -> Result<Vec<SubmoduleEntry>, Error> {
    const FILE: u32 = 0o100_000;
    let is_it = |file: &&TreeFile| file.path == Path::new(".gitmodules") && file.mode & 0o170_000 == FILE;
    let Some(file) = part.files.iter().find(is_it) else { return Ok(Vec::new()) };
    let doing = "read .gitmodules";
    // git ignores `include` in a blob.
    let args = ["config", "--blob", file.blob.as_str(), "-z", "--list"];
    let command = part.git.command(LOCAL_TIMEOUT, args).output_bytes_max(GITMODULES_BYTES_MAX);
    let output = command.run().await.map_err(|source| Error::Run { doing, source })?;
    // A file that git cannot read names no address, and the first submodule without an address is an error.
    Ok(if output.success() && !output.truncated { parse_submodules(&output.stdout) } else { Vec::new() })
}

/// True if a path that may not exist is below `dir`, by its names.
fn lexically_below(path: &Path, dir: &Path) -> bool {
    let up = path.components().any(|part| matches!(part, std::path::Component::ParentDir));
    !up && path.starts_with(dir)
}

/// The size of the files in a directory, in bytes.
fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|about| about.len()).sum()
}
