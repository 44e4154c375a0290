//! Lists the derivations of a flake: `nix-instantiate --eval`, pure, of a locked reference.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{Error, Problem, Result};
use super::flake_ref::FlakeRef;
use super::locate::Nix;
use crate::command::Command;

/// Timeout of one evaluation, including the download of its inputs. Large flakes take a minute; with a cold cache,
/// several.
pub const EVALUATION_TIMEOUT: Duration = Duration::from_secs(600);

/// Maximum number of checks that are evaluated one by one. The largest projects have some hundreds.
const CHECKS_MAX: usize = 1000;

/// Maximum attempts of an evaluation whose result the garbage collector removed.
const TRIES_MAX: usize = 3;

/// A derivation and its output path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Derivation {
    /// The derivation in the store: `…-name.drv`.
    pub drv: PathBuf,
    /// The path of the output that is used: for a package the output that Nix would install, else the first. It need not be valid
    /// yet.
    pub out: PathBuf,
}

/// The result of the expression of [`Nix::evaluate_package`].
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Package {
    Found(Derivation),
    Odd(String),
    Absent(Vec<String>),
}

/// Nix code that describes a derivation; for any other value it gives the type.
const DESCRIBE: &str = r#"describe = d: if (d.type or null) == "derivation" then { found = {
    drv = builtins.unsafeDiscardStringContext d.drvPath;
    out = builtins.unsafeDiscardStringContext d.outPath;
  }; } else { odd = builtins.typeOf d; };"#;

/// The output of a package that Nix would install: the first of `meta.outputsToInstall`, unless the flake itself names one
/// (`pkgs.hello.dev`). nixpkgs names its program's output there, which is not always the first of `outputs`.
const INSTALLED: &str = r#"installed = d: let wanted = d.meta.outputsToInstall or [ ]; in
  if (d.type or null) != "derivation" || d.outputSpecified or false || wanted == [ ] then d
  else d.${builtins.head wanted} or (throw "meta.outputsToInstall names ${builtins.head wanted}, which is no output");"#;

/// Nix code of a function that calls a flake in a directory of a tree.
const CALL_FLAKE: &str = include_str!("call_flake.nix");

impl Nix {
    /// Evaluates `packages.<system>.PACKAGE` and writes its derivation to the store. With `root`, a link there protects
    /// it from the garbage collector.
    ///
    /// # Errors
    /// If the flake does not evaluate, has no such package (the error lists the existing ones), or it is not a
    /// derivation.
    pub async fn evaluate_package(&self, flake: &FlakeRef, package: &str, root: Option<&Path>) -> Result<Derivation> {
        let what = format!("package {package} of {} does not evaluate", flake.brief());
        let expression = package_expression(&self.flake(flake), &self.system_string(), package);
        let rooted = |derivation: &Package| match derivation {
            Package::Found(derivation) => vec![derivation.drv.clone()],
            _ => Vec::new(),
        };
        match self.answer_rooted(&what, self.pure(&expression), root, rooted).await? {
            Package::Found(derivation) => Ok(derivation),
            Package::Odd(found) => Err(Error::NotADerivation {
                flake: flake.brief(),
                attribute: format!("packages.{}.{package}", self.system()),
                found,
            }),
            Package::Absent(available) => Err(Error::NoPackage {
                flake: flake.brief(),
                package: package.to_owned(),
                system: self.system().to_owned(),
                available,
            }),
        }
    }

    /// Evaluates `checks.<system>` and writes the derivations to the store. A check that does not evaluate is `None`.
    /// With `root`, links `ROOT`, `ROOT-2`, … protect them from the garbage collector.
    ///
    /// # Errors
    /// If not even the names of the checks can be evaluated.
    pub async fn evaluate_checks(
        &self,
        flake: &FlakeRef,
        root: Option<&Path>,
    ) -> Result<BTreeMap<String, Option<Derivation>>> {
        let what = format!("the checks of {} do not evaluate", flake.brief());
        let checks = format!("(({}).checks.{} or {{ }})", self.flake(flake), self.system_string());
        let drvs = |found: &BTreeMap<String, Option<Derivation>>| {
            found.values().flatten().map(|derivation| derivation.drv.clone()).collect()
        };
        let all = self.answer_rooted(&what, self.pure(&checks_expression(&checks)), root, drvs).await;
        let refused = match all {
            Err(error @ Error::Failed { .. }) if is_of_one_value(&error) => error,
            other => return other,
        };
        // One check fails in a way that Nix cannot catch (abort, a type error, a missing file), and so does the whole
        // evaluation. The names alone need no values.
        tracing::debug!(error = %refused, "evaluating the checks one by one");
        let names: Vec<String> = self.evaluate(&what, &format!("builtins.attrNames {checks}")).await?;
        if names.len() > CHECKS_MAX {
            return Err(Error::TooManyChecks { flake: flake.brief(), count: names.len(), max: CHECKS_MAX });
        }
        let (mut found, deadline) = (BTreeMap::new(), Instant::now() + EVALUATION_TIMEOUT);
        for name in names {
            let one = format!("{{ {name} = {checks}.{name}; }}", name = quoted(&name));
            let call = self.pure(&checks_expression(&one)).timeout(deadline.saturating_duration_since(Instant::now()));
            let result = self.answer(&what, &call).await;
            let derivation = match result {
                Ok(one) => BTreeMap::<String, Option<Derivation>>::into_values(one).next().flatten(),
                Err(error) if is_of_one_value(&error) => None,
                Err(error) => return Err(error),
            };
            found.insert(name, derivation);
        }
        if let Some(root) = root {
            self.root_drvs(&drvs(&found), root).await?;
        }
        Ok(found)
    }

    /// Evaluates an expression of rei itself: a function from `argument` to a set of derivations.
    ///
    /// It may name store paths (`builtins.storePath`), so it is not evaluated purely. It must never come from a
    /// candidate.
    ///
    /// # Errors
    /// If it does not evaluate to such a set.
    pub async fn instantiate_own(
        &self,
        expression: &str,
        argument: &Value,
        root: Option<&Path>,
    ) -> Result<BTreeMap<String, Derivation>> {
        let what = "evaluation of rei's own derivations";
        let text = format!(
            "let {DESCRIBE} in builtins.mapAttrs (name: d: (describe d).found) (({expression}) (builtins.fromJSON {}))",
            quoted(argument)
        );
        // An operator's nix.conf may restrict evaluation to some paths, but this expression uses rei's own.
        let call = self.evaluation().args(["--option", "pure-eval", "false", "--option", "restrict-eval", "false"]);
        let call = call.arg("-").stdin(text);
        let drvs = |found: &BTreeMap<String, Derivation>| found.values().map(|one| one.drv.clone()).collect();
        self.answer_rooted(what, call, root, drvs).await
    }

    async fn answer_rooted<T: DeserializeOwned>(
        &self,
        what: &str,
        call: Command,
        root: Option<&Path>,
        drvs: impl Fn(&T) -> Vec<PathBuf>,
    ) -> Result<T> {
        let mut tries = 0;
        loop {
            tries += 1;
            let found: T = self.answer(what, &call).await?;
            let drvs = drvs(&found);
            let rooted = match root {
                Some(root) if !drvs.is_empty() => self.root_drvs(&drvs, root).await,
                _ => Ok(()),
            };
            match rooted {
                // The garbage collector may have run between the evaluation and the creation of the root.
                Err(error) if tries < TRIES_MAX && error.problem() == Some(&Problem::Gone) => {}
                other => return other.map(|()| found),
            }
        }
    }

    async fn evaluate<T: DeserializeOwned>(&self, what: &str, expression: &str) -> Result<T> {
        self.answer(what, &self.pure(expression)).await
    }

    async fn answer<T: DeserializeOwned>(&self, what: &str, call: &Command) -> Result<T> {
        let printed = self.run(what, call).await?.stdout_text();
        serde_json::from_str(&printed).map_err(|_| Error::unreadable(what, &printed))
    }

    fn pure(&self, expression: &str) -> Command {
        self.evaluation().args(["--option", "pure-eval", "true", "--expr", expression])
    }

    /// A call that evaluates to JSON and writes the derivations of its value; the expression must be added.
    fn evaluation(&self) -> Command {
        let import = if self.may_import_from_derivation() { "true" } else { "false" };
        self.instantiate()
            .timeout(EVALUATION_TIMEOUT)
            .args(["--eval", "--strict", "--json", "--read-write-mode"])
            .args(["--option", "allow-import-from-derivation", import])
            .args(["--option", "accept-flake-config", "false"])
    }

    /// The Nix expression of the flake.
    fn flake(&self, flake: &FlakeRef) -> String {
        if flake.dir().is_empty() || self.version().takes_dir_of_path() {
            return format!("builtins.getFlake {}", quoted(flake));
        }
        let (tree, dir) = (quoted(flake.attributes()), quoted(flake.dir()));
        format!("({CALL_FLAKE}) {{ tree = builtins.fromJSON {tree}; dir = {dir}; }}")
    }

    fn system_string(&self) -> String {
        quoted(self.system())
    }
}

/// True if only one value of the flake fails, so that others may succeed.
fn is_of_one_value(error: &Error) -> bool {
    use Problem::*;
    match error {
        Error::Failed { problem, .. } => {
            matches!(problem, Other | ImportFromDerivation | Recursion | Impure | Network | HashMismatch | Gone)
        }
        _ => false,
    }
}

fn package_expression(flake: &str, system: &str, package: &str) -> String {
    let package = quoted(package);
    format!(
        "let {DESCRIBE} {INSTALLED} packages = ({flake}).packages.{system} or {{ }};
in if packages ? {package} then describe (installed packages.{package}) else {{ absent = builtins.attrNames packages; }}"
    )
}

/// A Nix expression of the set `checks`, where a value that throws or is no derivation becomes null.
fn checks_expression(checks: &str) -> String {
    format!(
        "let {DESCRIBE} in builtins.mapAttrs (name: d:
  let tried = builtins.tryEval (let it = (describe d).found or null; in builtins.deepSeq it it);
  in if tried.success then tried.value else null) {checks}"
    )
}

/// `text` as a string literal of the Nix language.
pub(super) fn quoted(text: impl std::fmt::Display) -> String {
    let text = text.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace("${", "\\${");
    format!("\"{}\"", text.replace('\r', "\\r"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_strings_cannot_be_escaped_from() {
        assert_eq!(quoted("a\"b\\c${d}$e"), r#""a\"b\\c\${d}$e""#);
        assert_eq!(quoted("x\r\n"), "\"x\\r\n\"");
        assert_eq!(quoted("$${x}"), "\"$\\${x}\"");
    }

    #[test]
    fn a_flake_is_evaluated_purely_and_without_building() {
        let argv = Nix::example().pure("1").argv().join(" ");
        for option in [
            "--eval --strict --json --read-write-mode",
            "--option allow-import-from-derivation false",
            "--option pure-eval true",
        ] {
            assert!(argv.contains(option), "{argv}");
        }
        let argv = Nix::example().allow_import_from_derivation(true).pure("1").argv().join(" ");
        assert!(argv.contains("--option allow-import-from-derivation true"), "{argv}");
    }

    #[test]
    fn a_result_is_parsed() {
        let found: Package =
            serde_json::from_str(r#"{"found":{"drv":"/nix/store/a.drv","out":"/nix/store/a"}}"#).unwrap();
        assert!(matches!(found, Package::Found(Derivation { drv, .. }) if drv == Path::new("/nix/store/a.drv")));
        let absent: Package = serde_json::from_str(r#"{"absent":["default"]}"#).unwrap();
        assert!(matches!(absent, Package::Absent(names) if names == ["default"]));
    }
}
