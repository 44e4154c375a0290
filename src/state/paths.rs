//! The paths of the supervisor's files, below the state directory.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::digest;
use crate::interface::secret::Secret;
use crate::interface::types::IncidentId;
use crate::journal::head_beside;
use crate::lifecycle::Slot;

/// Bytes of the digest in an instance's id. With a thousand supervisors on a machine, two of them have the same digest
/// on one of eight thousand machines.
const INSTANCE_DIGEST_BYTES: usize = 4;

/// The files and directories of one runtime.
#[derive(Clone, Debug)]
pub struct Paths {
    state: PathBuf,
    sockets: PathBuf,
}

impl Paths {
    /// The paths of a configuration.
    pub fn of(config: &Config) -> Self {
        let state = config.state.directory.clone();
        let sockets = config.state.sockets.clone().unwrap_or_else(|| state.clone());
        Self { state, sockets }
    }

    /// Creates the supervisor's directories.
    ///
    /// # Errors
    /// When a directory cannot be created.
    pub fn make(&self) -> io::Result<()> {
        let private = |dir: &Path| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        // Instances must be able to pass through the state directory to their own files below it, and must not list it.
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(&self.state)?;
        for dir in [self.journal(), self.logs(), self.incidents(), self.private(), self.sockets.clone()] {
            private(&dir)?;
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(self.run())
    }

    /// The state directory itself.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The directory of the sockets.
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// The journal.
    pub fn journal(&self) -> PathBuf {
        self.state.join("journal")
    }

    /// The id of the instance that record `seq` starts in a slot. It begins with a digest of the state directory. rei
    /// identifies processes by this id, and another supervisor on this machine also counts its own records from 1.
    pub fn instance_id(&self, seq: u64, slot: Slot) -> String {
        format!("{}-{seq}-{}", self.instance_digest(), slot.to_string().to_lowercase())
    }

    /// The prefix of the ids of all instances of this state directory.
    pub fn instance_digest(&self) -> String {
        let state = self.state.canonicalize().unwrap_or_else(|_| self.state.clone());
        let mut digest = digest::sha256(state.as_os_str().as_encoded_bytes());
        digest.truncate(2 * INSTANCE_DIGEST_BYTES);
        digest
    }

    /// The table of running instances.
    pub fn table(&self) -> PathBuf {
        self.state.join("instances")
    }

    /// The logs of instances.
    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    /// The log of the latest instance in a slot: a link to its file.
    pub fn log(&self, slot: Slot) -> PathBuf {
        self.logs().join(format!("{}.log", slot.to_string().to_lowercase()))
    }

    /// The evidence of incidents.
    pub fn incidents(&self) -> PathBuf {
        self.state.join("incidents")
    }

    /// The golden run of an incident: the exchanges that led to it.
    pub fn reproduction(&self, incident: &IncidentId) -> PathBuf {
        self.incidents().join(&incident.0).join("reproduction.golden.jsonl")
    }

    /// The golden run of this name, as Active repeats it.
    pub fn qualified(&self, name: &str) -> PathBuf {
        self.state.join("golden").join(format!("{name}.golden.jsonl"))
    }

    /// The recorded golden run of this name, without secrets.
    pub fn recorded(&self, name: &str) -> PathBuf {
        self.state.join("golden").join("recorded").join(format!("{name}.golden.jsonl"))
    }

    /// The recording that is under way: the next supervisor sees from it that it was interrupted.
    pub fn recording(&self) -> PathBuf {
        self.state.join("golden").join("recording.json")
    }

    /// Reports, candidates, contexts and incidents.
    pub fn objects(&self) -> PathBuf {
        self.state.join("objects")
    }

    /// The file of one object, by id.
    pub fn object(&self, id: &str) -> PathBuf {
        self.objects().join(format!("{id}.json"))
    }

    /// The context with this id. The first context of an incident is in the incident's folder itself, later ones in
    /// folders inside it.
    pub fn context(&self, incident: Option<&IncidentId>, context: &str) -> PathBuf {
        let Some(incident) = incident else { return self.object(context) };
        let folder = self.incidents().join(&incident.0);
        let later = folder.join(context);
        if later.is_dir() { later } else { folder }
    }

    /// The runs of blueprints.
    pub fn runs(&self) -> PathBuf {
        self.state.join("runs")
    }

    /// The files about versions, named by store path.
    pub fn versions(&self) -> PathBuf {
        self.state.join("versions")
    }

    /// The journal's sealed head, which shows how far the journal was written: see [`crate::journal::head_beside`].
    pub fn head(&self) -> PathBuf {
        head_beside(&self.journal())
    }

    /// The garbage collector's roots.
    pub fn roots(&self) -> PathBuf {
        self.state.join("roots")
    }

    /// The profile's directory; the profile in it has the runtime's name.
    pub fn profiles(&self) -> PathBuf {
        self.state.join("profiles")
    }

    /// The home directory that Nix programs get.
    pub fn nix_home(&self) -> PathBuf {
        self.state.join("nix")
    }

    /// The directory in which instances store data between restarts.
    pub fn instance_state(&self) -> PathBuf {
        self.state.join("runtime")
    }

    /// Notify sockets and temporary directories of instances.
    pub fn run(&self) -> PathBuf {
        self.state.join("run")
    }

    /// The directory of sockets that only the supervisor may use.
    pub fn private(&self) -> PathBuf {
        self.state.join("private")
    }

    /// The keeper's socket.
    pub fn keeper(&self) -> PathBuf {
        self.private().join("keeper.sock")
    }

    /// The operator's socket.
    pub fn control(&self) -> PathBuf {
        self.sockets.join("control.sock")
    }

    /// The file of the secret by which callers of the sockets prove themselves.
    pub fn secret(&self) -> PathBuf {
        Secret::file_beside(&self.control())
    }

    /// The socket of the evolution interface.
    pub fn evolution(&self) -> PathBuf {
        self.sockets.join("rei.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_gets_the_context_of_its_own_evolution() {
        let state = tempfile::tempdir().unwrap();
        let paths = Paths { state: state.path().into(), sockets: state.path().into() };
        let incident = IncidentId("inc_0001".into());
        let folder = state.path().join("incidents/inc_0001");
        assert_eq!(paths.context(Some(&incident), "ctx_0002"), folder);
        std::fs::create_dir_all(folder.join("ctx_0005")).unwrap();
        assert_eq!(paths.context(Some(&incident), "ctx_0005"), folder.join("ctx_0005"));
        assert_eq!(paths.context(None, "ctx_0003"), state.path().join("objects/ctx_0003.json"));
    }

    #[test]
    fn two_supervisors_give_different_instance_ids() {
        let paths = |state: &str| Paths { state: state.into(), sockets: state.into() };
        let (one, other) = (paths("/var/lib/rei/one"), paths("/var/lib/rei/other"));
        assert_ne!(one.instance_id(4, Slot::A), other.instance_id(4, Slot::A));
        assert_eq!(one.instance_id(4, Slot::A), one.instance_id(4, Slot::A));
        assert!(one.instance_id(4, Slot::A).ends_with("-4-a"));
    }
}
