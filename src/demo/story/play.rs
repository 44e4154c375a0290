//! Plays the story from an empty directory to the last act, and removes everything afterwards.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::mkdtemp;

use super::acts::Story;
use crate::demo::error::Error;
use crate::demo::narrator::Narrator;
use crate::demo::stage::Stage;

/// The programs and options of a run of the demo.
#[derive(Clone, Debug)]
pub struct Play {
    /// The rei program.
    pub rei: PathBuf,
    /// The demo's runtime.
    pub runtime: PathBuf,
    /// Whether to keep the directory.
    pub keep: bool,
}

/// Plays the whole story, or stops it in order when `interrupted` completes.
///
/// # Errors
/// If a fact of the story does not happen, or the machine cannot run the demo.
pub async fn play(
    play: &Play,
    narrator: &mut Narrator<'_>,
    interrupted: impl Future<Output = ()>,
) -> Result<(), Error> {
    let home = mkdtemp(&std::env::temp_dir().join("rei-demo-XXXXXX")).map_err(|errno| Error::File {
        act: "make a directory in",
        path: std::env::temp_dir(),
        source: errno.into(),
    })?;
    let played = on_stage(play, &home, narrator, interrupted).await;
    if play.keep {
        narrator.text(&format!("\nEverything is in {}", home.display()))?;
        return played;
    }
    let removed = remove(&home);
    played?;
    removed.map_err(|source| Error::File { act: "remove", path: home, source })
}

/// Removes a directory, including the read-only store paths in it.
fn remove(home: &Path) -> std::io::Result<()> {
    fn open(dir: &Path) -> std::io::Result<()> {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open(&entry.path())?;
            }
        }
        Ok(())
    }
    if home.join("nix/store").is_dir() {
        open(home)?;
    }
    std::fs::remove_dir_all(home)
}

async fn on_stage(
    play: &Play,
    home: &Path,
    narrator: &mut Narrator<'_>,
    interrupted: impl Future<Output = ()>,
) -> Result<(), Error> {
    let mut stage = Stage::set(home, &play.runtime).await?;
    narrator.head("rei demo")?;
    narrator.text(&format!(
        "A small web service is kept alive, repaired and upgraded while clients use it.\n\
         Nix {}, no network, no nixpkgs; everything is below {}.\n\
         The service is source code in a git tree: scripts, which a small runtime of rei's interprets.\n\
         The agent that repairs it stands in for an AI: a program that reads the incident's context.",
        stage.nix.version(),
        home.display()
    ))?;
    if stage.has_own_store() {
        narrator.text("This user cannot use the machine's Nix store, so the demo has one of its own there.")?;
    }
    let acts = async {
        let mut story = Story::begin(play, &mut stage, narrator).await?;
        let facts = story.acts().await?;
        drop(story.load);
        story.narrator.head("In short")?;
        story.narrator.facts(&facts)?;
        Ok(())
    };
    let played = tokio::select! {
        played = acts => played,
        () = interrupted => Err(Error::Interrupted),
    };
    let cleared = stage.clear().await;
    played?;
    cleared?;
    narrator.text(&format!("\nAll of it held, in {:.0} seconds. Nothing runs any more.", narrator.seconds()))?;
    Ok(())
}
