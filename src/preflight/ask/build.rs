//! Nix, its sandbox, the package and its program.

use crate::nix::{Derivation, RealiseOptions, last_output};
use crate::preflight::answer::{Answer, Level};
use crate::preflight::context::Context;
use crate::preflight::means::Means;
use crate::preflight::package::{Misfit, build_hint, unfit_program};
use crate::source::{GapKind as Kind, with_gaps};

/// The last bytes of a build's log that are searched for its last lines.
const LOG_TAIL_BYTES: usize = 4 << 10;

/// Is Nix installed and new enough, and does its store answer?
pub async fn nix<M: Means>(context: &Context<M>) -> Vec<Answer> {
    vec![match context.means.nix().await {
        Ok(nix) => Answer::ok(format!("Nix {} with the store {}", nix.version(), nix.store_dir().display())),
        Err(error) => Answer::of(&error, error.hint()),
    }]
}

/// Does a sandbox of Nix hold here? One derivation is built, whose builder looks around from inside.
pub async fn sandbox<M: Means>(context: &Context<M>) -> Vec<Answer> {
    // Without Nix the question before this one has failed already.
    let Ok(nix) = context.means.nix().await else { return Vec::new() };
    let system = nix.system();
    vec![match context.means.builder().await {
        Ok(_) => Answer::ok(format!("Nix builds for {system} in a sandbox: tried, and seen from inside")),
        Err(refusal) => Answer::of(&refusal, refusal.hint()),
    }]
}

/// Does the package of the followed commit evaluate?
pub async fn package<M: Means>(context: &Context<M>) -> Vec<Answer> {
    let answer = match context.package().await {
        None => return Vec::new(),
        Some(Ok(derivation)) => Answer::ok(format!("it evaluates, to {}", derivation.out.display())),
        Some(Err(answer)) => answer,
    };
    // The question about the repository has named the submodules.
    let pointers = context.gaps().iter().filter(|gap| gap.kind == Kind::Pointers);
    let pointers = pointers.map(|gap| Answer::warn(gap.line.clone(), gap.hint.clone()));
    std::iter::once(answer).chain(pointers).collect()
}

/// Does the package contain the program of `runtime.command`? If the package is not built, only a build can answer.
pub async fn program<M: Means>(context: &Context<M>) -> Vec<Answer> {
    let (Some(config), Some(derivation)) = (context.config(), context.derivation()) else { return Vec::new() };
    let Some(word) = config.runtime.command.first() else { return Vec::new() };
    match built(context, derivation).await {
        Err(answer) => return vec![answer],
        Ok(false) => {
            let line = format!("not built yet, so it is not known if it has {word}: `rei check --build` builds it");
            return vec![Answer::ok(line)];
        }
        Ok(true) => {}
    }
    let program = derivation.out.join(word);
    let Ok(nix) = context.means.nix().await else { return Vec::new() };
    vec![match unfit_program(config, nix.store_dir(), &program) {
        None => Answer::ok(format!("the package has {word}")),
        Some(Misfit::Fails(error)) => Answer::of(&error, error.hint()),
        Some(Misfit::Doubtful(error)) => Answer { level: Level::Warn, ..Answer::of(&error, error.hint()) },
    }]
}

/// Whether the derivation is built. Builds it if that is allowed.
async fn built<M: Means>(context: &Context<M>, derivation: &Derivation) -> Result<bool, Answer> {
    let of_nix = |error: crate::nix::Error| Answer::of(&error, error.hint());
    let nix = context.means.nix().await.map_err(of_nix)?;
    if nix.invalid([&derivation.out]).await.map_err(of_nix)?.is_empty() {
        return Ok(true);
    }
    let Some(config) = context.config().filter(|_| context.means.may_build()) else { return Ok(false) };
    let timeout = config.blueprints.timeout;
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = RealiseOptions { jobs, timeout, silence: timeout, total: timeout, root: None };
    let built = nix.realise(std::slice::from_ref(derivation), &options, None).await.map_err(of_nix)?;
    let Some(failure) = built.outcomes.into_iter().find_map(|outcome| outcome.failure) else { return Ok(true) };
    let log = nix.log(&derivation.drv, LOG_TAIL_BYTES).await.ok().flatten().unwrap_or_default();
    let said = last_output(&log);
    let gaps = if failure.is_of_the_build() { context.gaps() } else { &[] };
    let hint = build_hint(&failure, &derivation.drv);
    let (line, hint) = with_gaps(&format!("{}{said}", failure.message), &hint, gaps);
    Err(Answer::fail(line, hint))
}
