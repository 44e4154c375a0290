//! The private bare copy of the runtime's repository.
//!
//! The mirror answers all queries about commits, and keeps every commit that rei needs under `refs/rei/`. So rei only
//! reads the operator's repository, which may change or be removed without harm.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;

use super::borrow::{is_shallow, write_alternates};
use super::error::Error;
use super::git::{ASK_TIMEOUT, FETCH_TIMEOUT, GRACE, Git, LOCAL_TIMEOUT, answer, config_text, git_version};
use super::locks;
use super::parse::{
    ObjectId, RemoteFailure, RemoteRef, parse_object_id, parse_remote_failure, parse_remote_refs, reason_lines,
};
use super::places::common_dir;
use super::turns::Turns;
use crate::command::Output;
use crate::interface::types::CandidateId;

/// The ref that keeps the last fetched commit of the followed ref.
const FOLLOWED: &str = "refs/rei/followed";
/// The ref that keeps Active's commit.
const ACTIVE: &str = "refs/rei/active";
/// The prefix of the refs that keep candidates' commits, by candidate id.
pub(super) const CANDIDATES: &str = "refs/rei/candidates/";
/// The prefix of the refs that keep the commits of versions that can serve again, by commit.
pub(super) const VERSIONS: &str = "refs/rei/versions/";
/// Maximum number of branches that a hint lists if the followed ref does not exist.
const KNOWN_REFS_MAX: usize = 10;
/// A private bare copy of one repository, of which one ref is followed.
#[derive(Clone, Debug)]
pub struct Mirror {
    dir: PathBuf,
    source: String,
    followed: String,
    /// Object directories of other repositories, whose objects are not copied.
    borrowed: Vec<PathBuf>,
    /// True if the files of submodules are a part of a commit's files.
    pub(super) submodules: bool,
    /// Only one fetch runs at a time: git refuses to write a ref that another git has changed meanwhile.
    pub(super) fetching: Arc<Mutex<()>>,
    pub(super) turns: Arc<Turns>,
}

impl Mirror {
    /// Opens the mirror under `state_dir`, or creates an empty one if there is none.
    ///
    /// `source` is a path or URL, `followed` a branch, a tag, `HEAD` or a full ref name.
    ///
    /// # Errors
    /// If git is missing or too old, the name of the ref is invalid, or the directory cannot be written.
    pub async fn open(state_dir: &Path, source: &str, followed: &str) -> Result<Self, Error> {
        let mirror = Self::at(state_dir, source, followed)?;
        mirror.prepare().await?;
        Ok(mirror)
    }

    /// The mirror under `state_dir`. [`Mirror::prepare`] must have prepared it.
    ///
    /// # Errors
    /// If the name of the ref is invalid, or there is no current directory.
    pub fn at(state_dir: &Path, source: &str, followed: &str) -> Result<Self, Error> {
        if !is_ref_name(followed) {
            return Err(Error::RefName { name: followed.to_owned() });
        }
        let dir = std::path::absolute(state_dir.join("source")).map_err(|source| Error::Io {
            doing: "resolve",
            path: state_dir.to_owned(),
            source,
        })?;
        let source = match local_path(source) {
            Some(path) => std::path::absolute(&path)
                .map_err(|source| Error::Io { doing: "resolve", path, source })?
                .to_string_lossy()
                .into_owned(),
            None => source.to_owned(),
        };
        let (followed, borrowed) = (followed.to_owned(), Vec::new());
        let (submodules, fetching, turns) = (false, Arc::default(), Arc::default());
        Ok(Self { dir, source, followed, borrowed, submodules, fetching, turns })
    }

    /// The same mirror, which copies no object that its source or one of the repositories `others` has on this machine.
    /// Use this only for a temporary mirror: it breaks if these repositories lose an object.
    #[must_use]
    pub fn borrowing(mut self, others: &[PathBuf]) -> Self {
        let dirs = self.source_dir();
        // From a shallow repository git would use the objects, but it would not know that their parents are missing.
        let dirs = dirs.iter().chain(others).filter_map(|dir| common_dir(dir)).filter(|dir| !is_shallow(dir));
        self.borrowed = dirs.map(|dir| dir.join("objects")).collect();
        self
    }

    /// True if the history is incomplete, because the source is a shallow clone.
    pub fn is_shallow(&self) -> bool {
        is_shallow(&self.git_dir())
    }

    /// The state directory, which has the mirror's.
    pub(super) fn state_dir(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    /// The bare repository.
    pub fn git_dir(&self) -> PathBuf {
        self.dir.join("mirror.git")
    }

    /// The path or URL that is mirrored.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The directory of the mirrored repository, if it is on this machine.
    pub fn source_dir(&self) -> Option<PathBuf> {
        local_path(&self.source)
    }

    /// The ref that keeps a candidate's commit.
    fn candidate_ref(id: &CandidateId) -> String {
        format!("{CANDIDATES}{id}")
    }

    /// Asks the source for the present commit of the followed ref. No objects are transferred.
    ///
    /// # Errors
    /// If the source does not exist, does not answer, or has no such ref.
    pub async fn look(&self) -> Result<ObjectId, Error> {
        Ok(self.find_remote(&self.followed).await?.0)
    }

    /// Fetches the followed ref into the mirror and returns its commit.
    ///
    /// # Errors
    /// As [`Mirror::look`], or if the transfer fails.
    pub async fn fetch(&self) -> Result<ObjectId, Error> {
        let _alone = self.fetching.lock().await;
        let _using = self.in_use().await;
        let (_, name) = self.find_remote(&self.followed).await?;
        self.fetch_refs(&[format!("+{name}:{FOLLOWED}")]).await?;
        self.commit_of(FOLLOWED).await
    }

    /// Fetches the commit that `rev` (a branch, a tag or the digits of a commit) names in the source, and returns it.
    ///
    /// # Errors
    /// As [`Mirror::fetch`].
    pub async fn resolve(&self, rev: &str) -> Result<ObjectId, Error> {
        const ABBREVIATION_MIN: usize = 7; // git's own minimum
        if let Some(commit) = ObjectId::parse(rev)
            && self.has_commit(&commit).await?
        {
            return Ok(commit);
        }
        if !is_ref_name(rev) {
            return Err(Error::RefName { name: rev.to_owned() });
        }
        let _alone = self.fetching.lock().await;
        let _using = self.in_use().await;
        let missing = match self.find_remote(rev).await {
            Ok((_, name)) => {
                let kept = format!("refs/rei/source/{}", name.strip_prefix("refs/").unwrap_or(&name));
                self.fetch_refs(&[format!("+{name}:{kept}")]).await?;
                return self.commit_of(&kept).await;
            }
            Err(missing @ Error::NoSuchRef { .. }) => missing,
            Err(other) => return Err(other),
        };
        let hex = rev.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hex || !(ABBREVIATION_MIN..=40).contains(&rev.len()) {
            return Err(missing);
        }
        let all = ["+refs/heads/*:refs/rei/source/heads/*", "+refs/tags/*:refs/rei/source/tags/*"];
        self.fetch_refs(&all.map(str::to_owned)).await?;
        self.commit_of(rev).await.map_err(|_| missing)
    }

    /// Keeps a commit as the commit of Active.
    ///
    /// # Errors
    /// If the mirror has no such commit or cannot be written.
    pub async fn keep_active(&self, commit: &ObjectId) -> Result<(), Error> {
        self.set_ref(ACTIVE, commit).await
    }

    /// Keeps a commit as the commit of a candidate.
    ///
    /// # Errors
    /// As [`Mirror::keep_active`].
    pub async fn keep_candidate(&self, id: &CandidateId, commit: &ObjectId) -> Result<(), Error> {
        self.set_ref(&Self::candidate_ref(id), commit).await
    }

    /// Removes the ref of a candidate's commit. Does nothing if there is none.
    ///
    /// # Errors
    /// If the mirror cannot be written.
    pub async fn drop_candidate(&self, id: &CandidateId) -> Result<(), Error> {
        self.drop_ref(&Self::candidate_ref(id)).await
    }

    /// The commit that is kept for a candidate, if there is one.
    ///
    /// # Errors
    /// If the mirror cannot be read.
    pub async fn candidate(&self, id: &CandidateId) -> Result<Option<ObjectId>, Error> {
        self.kept(&Self::candidate_ref(id)).await
    }

    /// The commit that is kept for Active, if there is one.
    ///
    /// # Errors
    /// If the mirror cannot be read.
    pub async fn active(&self) -> Result<Option<ObjectId>, Error> {
        self.kept(ACTIVE).await
    }

    /// A git command builder for the mirror.
    pub(super) fn git(&self) -> Git {
        Git::at(self.git_dir(), self.config_file())
    }

    /// A git command builder for another repository, with the mirror's settings.
    pub(super) fn git_at(&self, git_dir: &Path) -> Git {
        Git::at(git_dir, self.config_file())
    }

    /// A directory beside the mirror for the work on one candidate.
    pub(super) fn scratch(&self, name: &str) -> PathBuf {
        self.dir.join("scratch").join(name)
    }

    pub(super) async fn set_ref(&self, name: &str, commit: &ObjectId) -> Result<(), Error> {
        self.update_ref("keep a commit", &["update-ref", "--no-deref", name, commit.as_str()]).await
    }

    pub(super) async fn drop_ref(&self, name: &str) -> Result<(), Error> {
        self.update_ref("forget a commit", &["update-ref", "--no-deref", "-d", name]).await
    }

    pub(super) async fn update_ref(&self, doing: &'static str, args: &[&str]) -> Result<(), Error> {
        let git = self.git();
        let mut output = git.finish(doing, args).await?;
        if self.has_cleared(&output).await? {
            output = git.finish(doing, args).await?;
        }
        expect_success(doing, &output)
    }

    /// True if git failed because of a lock that no process holds, and this has removed such locks: then the caller
    /// tries again.
    async fn has_cleared(&self, output: &Output) -> Result<bool, Error> {
        let blamed = !output.success() && locks::is_blamed(&output.stderr_text());
        if blamed {
            locks::clear(&self.git_dir(), GRACE).await?;
        }
        Ok(blamed)
    }

    /// The commit of a ref of the mirror.
    pub(super) async fn commit_of(&self, name: &str) -> Result<ObjectId, Error> {
        let args = ["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{name}^{{commit}}")];
        let output = self.git().try_run("name a commit", LOCAL_TIMEOUT, args).await?;
        parse_object_id(&output.stdout).ok_or_else(|| Error::NoSuchRef {
            source_at: self.source.clone(),
            name: name.to_owned(),
            known: Vec::new(),
        })
    }

    async fn kept(&self, name: &str) -> Result<Option<ObjectId>, Error> {
        match self.commit_of(name).await {
            Ok(commit) => Ok(Some(commit)),
            Err(Error::NoSuchRef { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn config_file(&self) -> PathBuf {
        self.dir.join("gitconfig")
    }

    /// Creates the mirror if it does not exist, updates its configuration, and removes the lock files of a git that was
    /// killed. Attributes are disabled in the mirror: the bytes of a file are the bytes of its blob.
    ///
    /// # Errors
    /// If git is missing or too old, or the directory cannot be written.
    pub async fn prepare(&self) -> Result<(), Error> {
        git_version().await?;
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { doing, path, source }
        };
        let (dir, git_dir) = (self.dir.clone(), self.git_dir());
        std::fs::create_dir_all(&dir).map_err(io("make", &dir))?;
        let source_dir = self.source_dir().unwrap_or_else(|| dir.clone());
        let real = source_dir.canonicalize().unwrap_or_else(|_| source_dir.clone());
        let trusted = [&source_dir, &real].map(|dir| [dir.clone(), dir.join(".git")]).concat();
        std::fs::write(self.config_file(), config_text(&trusted)).map_err(io("write", &self.config_file()))?;
        if !git_dir.join("HEAD").exists() {
            let args = ["init", "--quiet", "--bare", "--template=", "--object-format=sha1", "--initial-branch=none"];
            self.git().run("make the mirror", args).await?;
        }
        locks::clear(&git_dir, GRACE).await?;
        write_raw_attributes(&git_dir)
    }

    /// The object and full name of a ref of the source.
    async fn find_remote(&self, name: &str) -> Result<(ObjectId, String), Error> {
        if let Some(path) = self.source_dir()
            && !path.exists()
        {
            return Err(Error::NotARepository { source_at: self.source.clone() });
        }
        let candidates = full_names(name);
        let mut args = vec!["ls-remote".to_owned(), "--quiet".into(), "--".into(), self.source.clone()];
        for name in &candidates {
            args.extend([name.clone(), format!("{name}^{{}}")]);
        }
        let refs = self.ls_remote(&args).await?;
        if let Some((object, name)) = choose_ref(&refs, &candidates) {
            let commit = ObjectId::parse(&object).ok_or_else(|| self.object_format(&object))?;
            return Ok((commit, name));
        }
        let heads = ["ls-remote", "--quiet", "--heads", "--", &self.source].map(str::to_owned);
        let known = self.ls_remote(&heads).await?;
        let known = known.iter().filter_map(|r| r.name.strip_prefix("refs/heads/"));
        let known = known.take(KNOWN_REFS_MAX).map(str::to_owned).collect();
        Err(Error::NoSuchRef { source_at: self.source.clone(), name: name.to_owned(), known })
    }

    async fn ls_remote(&self, args: &[String]) -> Result<Vec<RemoteRef>, Error> {
        let doing = "ask the source for its refs";
        let output = self.git().network().try_run(doing, ASK_TIMEOUT, args).await?;
        self.reached(&output)?;
        parse_remote_refs(&output.stdout).ok_or_else(|| answer(doing, &output.stdout))
    }

    async fn fetch_refs(&self, refspecs: &[String]) -> Result<(), Error> {
        write_alternates(&self.git_dir(), &self.borrowed)?;
        let flags = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"];
        // The source may have the commits now that a shallow source lacked before.
        let deepen = self.is_shallow().then_some("--unshallow");
        let more = ["--no-auto-maintenance", "--update-shallow", "--", &self.source];
        let flags = flags.into_iter().chain(deepen).chain(more);
        let args: Vec<&str> = flags.chain(refspecs.iter().map(String::as_str)).collect();
        let git = self.git().network();
        let doing = "fetch from the source";
        let mut output = git.try_run(doing, FETCH_TIMEOUT, &args).await?;
        if self.has_cleared(&output).await? {
            output = git.try_run(doing, FETCH_TIMEOUT, &args).await?;
        }
        self.reached(&output)
    }

    fn reached(&self, output: &Output) -> Result<(), Error> {
        if output.success() {
            return Ok(());
        }
        let (stderr, source_at) = (output.stderr_text(), self.source.clone());
        Err(match parse_remote_failure(&stderr) {
            RemoteFailure::NotARepository => Error::NotARepository { source_at },
            RemoteFailure::Unreachable => Error::Unreachable { source_at, said: reason_lines(&stderr) },
        })
    }

    fn object_format(&self, object: &str) -> Error {
        const SHA256_DIGITS: usize = 64;
        if object.len() == SHA256_DIGITS {
            return Error::ObjectFormat { source_at: self.source.clone() };
        }
        answer("ask the source for its refs", object.as_bytes())
    }
}

/// Disables every conversion of file contents: this file overrides the `.gitattributes` of a tree.
pub(super) fn write_raw_attributes(git_dir: &Path) -> Result<(), Error> {
    let info = git_dir.join("info");
    let file = info.join("attributes");
    std::fs::create_dir_all(&info)
        .and_then(|()| std::fs::write(&file, "* -text -eol -ident -filter -working-tree-encoding !diff !merge\n"))
        .map_err(|source| Error::Io { doing: "write", path: file, source })
}

pub(super) fn expect_success(doing: &'static str, output: &Output) -> Result<(), Error> {
    if output.success() { Ok(()) } else { Err(Error::Git { doing, said: reason_lines(&output.stderr_text()) }) }
}

/// The full names that a short name can mean, by priority.
fn full_names(name: &str) -> Vec<String> {
    if name == "HEAD" || name.starts_with("refs/") {
        return vec![name.to_owned()];
    }
    vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")]
}

/// The commit and full name of the first name that exists. An annotated tag means its commit.
fn choose_ref(refs: &[RemoteRef], candidates: &[String]) -> Option<(String, String)> {
    let object = |name: &str| refs.iter().find(|r| r.name == name).map(|r| r.object.clone());
    candidates.iter().find_map(|name| {
        let object = object(&format!("{name}^{{}}")).or_else(|| object(name))?;
        Some((object, name.clone()))
    })
}

/// The directory of a source; `None` if it is on another host.
fn local_path(source: &str) -> Option<PathBuf> {
    if let Some(path) = source.strip_prefix("file://") {
        return Some(PathBuf::from(path));
    }
    let scp_like = source.split('/').next().is_some_and(|first| first.contains(':'));
    (!source.contains("://") && !scp_like).then(|| PathBuf::from(source))
}

/// Those of git's rules for ref names which ensure that a name is not an option, a range or a pattern.
fn is_ref_name(name: &str) -> bool {
    const REF_NAME_BYTES_MAX: usize = 200; // with the prefix it still fits into a file name
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    !name.is_empty()
        && name.len() <= REF_NAME_BYTES_MAX
        && !name.starts_with(['-', '/', '.'])
        && !name.ends_with(['/', '.'])
        && !name.contains("..")
        && !name.contains("@{")
        && !name.contains("//")
        && !name.split('/').any(|part| part.starts_with('.') || part.ends_with(".lock"))
        && !name.chars().any(forbidden)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::Repository;

    #[test]
    fn names_that_git_could_misread_are_refused() {
        for good in ["main", "feature/x", "v1.2", "HEAD", "refs/heads/main"] {
            assert!(is_ref_name(good), "{good}");
        }
        for bad in ["", "-x", "a..b", "a b", "a:b", "a^", "*", "/a", "a/", "a.lock", ".a", "a/.b", "a@{1}", "a\n"] {
            assert!(!is_ref_name(bad), "{bad}");
        }
    }

    #[test]
    fn paths_and_urls_are_told_apart() {
        assert_eq!(local_path("/srv/a:b"), Some("/srv/a:b".into()));
        assert_eq!(local_path("file:///srv/a"), Some("/srv/a".into()));
        assert_eq!(local_path("./x"), Some("./x".into()));
        assert_eq!(local_path("https://h/x"), None);
        assert_eq!(local_path("git@h:x/y"), None);
    }

    #[tokio::test]
    async fn follows_a_branch_and_leaves_the_source_alone() {
        let repository = Repository::new();
        let first = repository.commit(&[("a", "1")], "first");
        let state = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(state.path(), repository.path(), "main").await.unwrap();
        assert_eq!(mirror.fetch().await.unwrap().as_str(), first);
        let second = repository.commit(&[("a", "2"), ("b", "x")], "second\n\nbody");
        let before = repository.fingerprint();
        assert_eq!(mirror.look().await.unwrap().as_str(), second);
        let (first, second) = (ObjectId::parse(&first).unwrap(), mirror.fetch().await.unwrap());
        assert_eq!(mirror.changed(&first, &second).await.unwrap(), [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(mirror.subjects(&first, &second, 9).await.unwrap()[0].subject, "second");
        assert_ne!(mirror.tree(&first).await.unwrap(), mirror.tree(&second).await.unwrap());
        assert_eq!(mirror.files(&second).await.unwrap().len(), 2);
        let patch = mirror.patch(&first, &second, 1 << 20).await.unwrap();
        assert!(String::from_utf8_lossy(&patch).contains("\n-1\n"));
        assert_eq!(repository.fingerprint(), before, "the operator's repository changed");
    }

    /// This happens if an operator asks for an evolution while rei itself sees the new commit.
    #[tokio::test]
    async fn who_fetches_at_the_same_time_gets_the_same_commit() {
        const ROUNDS: u32 = 5;
        let repository = Repository::new();
        let state = tempfile::tempdir().unwrap();
        repository.commit(&[("a", "0")], "first");
        let mirror = Mirror::open(state.path(), repository.path(), "main").await.unwrap();
        for round in 1..=ROUNDS {
            let commit = repository.commit(&[("a", &round.to_string())], "next");
            let (one, two, same) = (mirror.clone(), mirror.clone(), mirror.clone());
            let fetched = tokio::join!(one.fetch(), two.resolve("main"), same.fetch(), mirror.fetch());
            for found in [fetched.0, fetched.1, fetched.2, fetched.3] {
                assert_eq!(found.unwrap().as_str(), commit, "round {round}");
            }
        }
    }

    #[tokio::test]
    async fn kept_commits_outlive_a_rewritten_source() {
        let repository = Repository::new();
        repository.commit(&[("a", "1")], "first");
        let state = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(state.path(), repository.path(), "main").await.unwrap();
        let active = mirror.fetch().await.unwrap();
        mirror.keep_active(&active).await.unwrap();
        mirror.keep_candidate(&CandidateId::numbered(1), &active).await.unwrap();
        repository.git(&["commit", "-q", "--amend", "-m", "rewritten"]);
        assert_ne!(mirror.fetch().await.unwrap(), active);
        assert!(mirror.tidy().await.unwrap(), "no other job needs objects");
        assert_eq!(mirror.active().await.unwrap(), Some(active.clone()));
        assert_eq!(mirror.candidate(&CandidateId::numbered(1)).await.unwrap(), Some(active.clone()));
        mirror.drop_candidate(&CandidateId::numbered(1)).await.unwrap();
        mirror.drop_candidate(&CandidateId::numbered(1)).await.unwrap();
        assert_eq!(mirror.candidate(&CandidateId::numbered(1)).await.unwrap(), None);
        let reopened = Mirror::open(state.path(), repository.path(), "main").await.unwrap();
        assert!(reopened.has_commit(&active).await.unwrap());
    }

    #[tokio::test]
    async fn revisions_are_found_by_branch_tag_and_digits() {
        let repository = Repository::new();
        let first = repository.commit(&[("a", "1")], "first");
        repository.git(&["tag", "-a", "v1", "-m", "one"]);
        let second = repository.commit(&[("a", "2")], "second");
        let state = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(state.path(), repository.path(), "v1").await.unwrap();
        assert_eq!(mirror.fetch().await.unwrap().as_str(), first, "an annotated tag means its commit");
        assert_eq!(mirror.resolve("main").await.unwrap().as_str(), second);
        assert_eq!(mirror.resolve(&second[..8]).await.unwrap().as_str(), second);
        assert_eq!(mirror.resolve(&first).await.unwrap().as_str(), first);
        assert!(matches!(mirror.resolve("0123456789").await, Err(Error::NoSuchRef { .. })));
        assert!(matches!(mirror.resolve("--upload-pack=x").await, Err(Error::RefName { .. })));
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_source_is_named() {
        let (repository, state) = (Repository::new(), tempfile::tempdir().unwrap());
        repository.commit(&[("a", "1")], "first");
        let open = |source: String, name: &'static str| {
            let state = state.path().to_owned();
            async move { Mirror::open(&state, &source, name).await.unwrap().fetch().await.unwrap_err() }
        };
        let error = open(repository.path().to_owned(), "nope").await;
        assert_eq!(error.hint().as_deref(), Some("set runtime.ref to one of its branches: main"));
        let empty = tempfile::tempdir().unwrap();
        let error = open(empty.path().display().to_string(), "main").await;
        assert!(matches!(error, Error::NotARepository { .. }), "{error}");
        let error = open("/nonexistent/repository".into(), "main").await;
        assert!(matches!(error, Error::NotARepository { .. }), "{error}");
        let error = open("http://127.0.0.1:1/x".into(), "main").await;
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        let error = open("ext::sh -c 'touch /tmp/x'".into(), "main").await;
        assert!(error.to_string().contains("not allowed"), "{error}");
        let sha256 = Repository::with_format("sha256");
        sha256.commit(&[("a", "1")], "first");
        let error = open(sha256.path().to_owned(), "main").await;
        assert!(matches!(error, Error::ObjectFormat { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_hostile_source_configuration_runs_nothing() {
        let repository = Repository::new();
        repository.commit(&[("a", "1")], "first");
        let proof = tempfile::tempdir().unwrap();
        let run = format!("touch {}/ran", proof.path().display());
        for name in ["uploadpack.packObjectsHook", "core.fsmonitor", "core.sshCommand", "core.gitProxy"] {
            repository.git(&["config", name, &run]);
        }
        let state = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(state.path(), repository.path(), "main").await.unwrap();
        mirror.fetch().await.unwrap();
        assert!(!proof.path().join("ran").exists());
    }
}
