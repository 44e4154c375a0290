//! The files of a top-level module use each other without circles: a reader can read each file after the files that it uses.
//!
//! A file uses another file if its code names an item of the other file: in a `use`, or in a path such as `keep::open`. If a
//! `mod.rs` or another file re-exports a name, this test follows the name to the file that defines it, so a `mod.rs` is no
//! part of a circle. This test does not see methods, which need no import: a type may have its methods in several files.
//! Tests use the code that they test; they do not count here.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use super::{File, files, none};

/// Uses that close a circle and do no harm: the file, the used file (or directory, for all files below it), and why.
const HARMLESS: &[(&str, &str, &str)] = &[
    ("cli/args.rs", "cli/", "clap's list of commands has each command, and each command reads the global options"),
    ("cli/ui.rs", "cli/progress.rs", "the terminal makes the progress bar, and the bar draws through the terminal"),
    (
        "blueprint/actions/action_context.rs",
        "blueprint/actions/",
        "one file maps names to actions, and each action takes that file's types",
    ),
    ("demo/story/acts.rs", "demo/story/", "the story has its acts, and each act uses the story's functions"),
];

/// The most re-exports of one name that are followed, from file to file.
const REEXPORTS_MAX: usize = 8;

/// The path of a Rust module: `["supervisor", "work", "judge"]`.
type Place = Vec<String>;

/// A file of `src/`, which is one Rust module.
struct Parsed<'a> {
    file: &'a File,
    /// Its code, and the number of each line of it.
    code: String,
    numbers: Vec<usize>,
    /// Its `use`s: the position in the code, whether it is public, the path, and the name that it has in this file.
    uses: Vec<(usize, bool, Vec<String>, String)>,
}

/// All files of `src/`.
struct AllParsed<'a>(BTreeMap<Place, Parsed<'a>>);

fn place_of(file: &File) -> Option<Place> {
    let below = file.path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let below = below.strip_suffix("/mod").unwrap_or(below);
    let outside = ["lib", "main"].contains(&below) || below.starts_with("bin/");
    (!outside).then(|| below.split('/').map(str::to_owned).collect())
}

/// The paths of a `use`, without its braces, each with the name that the file uses for it.
fn expand(tree: &str) -> Vec<(Vec<String>, String)> {
    let tree = tree.trim();
    let Some((before, inside)) = tree.split_once('{') else {
        let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias)));
        let mut path: Vec<String> = path.split("::").map(|name| name.trim().to_owned()).collect();
        if path.len() > 1 && path.last().is_some_and(|name| name == "self") {
            path.pop();
        }
        let name = alias.map_or_else(|| path.last().cloned().unwrap_or_default(), |alias| alias.trim().to_owned());
        return vec![(path, name)];
    };
    let inside = inside.strip_suffix('}').unwrap_or(inside);
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in inside.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            c => parts.last_mut().unwrap().push(c),
        }
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(|part| expand(&format!("{before}{part}"))).collect()
}

impl<'a> AllParsed<'a> {
    fn of(files: &'a [File]) -> Self {
        let for_tests = Regex::new(r"#\[cfg\(test\)\]\n(?:pub(?:\([^)]*\))? )?mod (\w+);").unwrap();
        let mut tests = BTreeSet::new();
        for file in files.iter().filter(|file| file.is_rust()) {
            let Some(place) = place_of(file) else { continue };
            let below = |name: &str| [&place[..], &[name.to_owned()]].concat();
            tests.extend(for_tests.captures_iter(&file.text).map(|found| below(&found[1])));
        }
        let import = Regex::new(r"(?m)^ *(pub(?:\([^)]*\))? )?use ([^;]+);").unwrap();
        let mut found = BTreeMap::new();
        for file in files.iter().filter(|file| file.is_rust()) {
            let Some(place) = place_of(file).filter(|place| !tests.contains(place)) else { continue };
            let (mut code, mut numbers, mut uses) = (String::new(), Vec::new(), Vec::new());
            for (n, line) in file.code() {
                code.push_str(line);
                code.push('\n');
                numbers.push(n);
            }
            for capture in import.captures_iter(&code) {
                let (at, seen) = (capture.get(2).unwrap().start(), capture.get(1).is_some());
                uses.extend(expand(&capture[2]).into_iter().map(|(path, name)| (at, seen, path, name)));
            }
            // The remaining paths are in the code itself; the line numbers stay the same.
            let blank = |capture: &regex::Captures<'_>| capture[0].replace(|c| c != '\n', " ");
            code = import.replace_all(&code, blank).into_owned();
            found.insert(place, Parsed { file, code, numbers, uses });
        }
        Self(found)
    }

    /// The Rust modules that define the item of a path in the module `from`; none if the item is outside of the project.
    fn leads_to(&self, from: &Place, path: &[String], reexports: usize) -> Vec<Place> {
        let Some((first, rest)) = path.split_first() else { return Vec::new() };
        let child = |place: &Place, name: &String| [&place[..], std::slice::from_ref(name)].concat();
        let (mut at, mut rest) = match &**first {
            "crate" => (Place::new(), rest),
            "self" => (from.clone(), rest),
            "super" => (from[..from.len() - 1].to_vec(), rest),
            _ if self.0.contains_key(&child(from, first)) => (from.clone(), path),
            _ => return Vec::new(),
        };
        while let Some((name, more)) = rest.split_first() {
            let below = child(&at, name);
            match &**name {
                "super" if !at.is_empty() => at.truncate(at.len() - 1),
                _ if self.0.contains_key(&below) => at = below,
                _ => break,
            }
            rest = more;
        }
        let (Some(name), Some(module)) = (rest.first(), self.0.get(&at)) else { return vec![at] };
        let passed_on = module.uses.iter().filter(|(_, seen, _, known)| *seen && (known == name || known == "*"));
        let mut found = Vec::new();
        for (_, _, path, known) in passed_on.filter(|_| reexports < REEXPORTS_MAX) {
            let mut path = path.clone();
            if known == "*" {
                path.pop();
                path.push(name.clone());
            } else {
                path.extend_from_slice(&rest[1..]);
            }
            found
                .extend(self.leads_to(&at, &path, reexports + 1).into_iter().filter(|place| self.defines(place, name)));
        }
        if found.is_empty() { vec![at] } else { found }
    }

    /// Whether the module has an item of this name, or has this name itself.
    fn defines(&self, place: &Place, name: &str) -> bool {
        let item = format!(r"\b(fn|struct|enum|union|trait|type|const|static|macro_rules!|mod) {name}\b");
        let named = |known: &String| known == name;
        place.last().is_some_and(named)
            || self.0.get(place).is_some_and(|module| {
                Regex::new(&item).unwrap().is_match(&module.code) || module.uses.iter().any(|it| it.1 && named(&it.3))
            })
            || name == "*"
    }

    /// The files of the same top-level module that each file uses, with the first line that does.
    fn uses(&self) -> BTreeMap<&'a str, BTreeMap<&'a str, usize>> {
        let named = Regex::new(r"\w+(?:::\w+)+").unwrap();
        let mut found: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
        for (place, module) in &self.0 {
            let mut paths: Vec<(usize, Vec<Place>)> = Vec::new();
            let mut known: BTreeMap<&str, Place> = BTreeMap::new();
            for (at, _, path, name) in &module.uses {
                let to = self.leads_to(place, path, 0);
                if let Some(brought) = to.iter().find(|to| to.last() == path.last()) {
                    known.insert(name, brought.clone());
                }
                paths.push((*at, to));
            }
            for path in named.find_iter(&module.code) {
                let names: Vec<String> = path.as_str().split("::").map(str::to_owned).collect();
                let to = match known.get(&*names[0]) {
                    Some(brought) => {
                        let from_root = ["crate".to_owned()].into_iter().chain(brought.clone());
                        self.leads_to(place, &from_root.chain(names[1..].to_vec()).collect::<Vec<_>>(), 0)
                    }
                    None => self.leads_to(place, &names, 0),
                };
                paths.push((path.start(), to));
            }
            let is_map = |file: &File| file.path.ends_with("/mod.rs");
            for (at, to) in paths.iter().flat_map(|(at, to)| to.iter().map(move |to| (at, to))) {
                let Some(other) = self.0.get(to).filter(|_| to != place && to.first() == place.first()) else {
                    continue;
                };
                if !is_map(module.file) && !is_map(other.file) {
                    let line = module.numbers[module.code[..*at].matches('\n').count()];
                    found.entry(&module.file.path).or_default().entry(&other.file.path).or_insert(line);
                }
            }
        }
        found
    }
}

/// All files that a file uses, directly or through other files.
fn reached<'a>(arrows: &BTreeMap<&'a str, BTreeMap<&'a str, usize>>, from: &str) -> BTreeSet<&'a str> {
    let (mut open, mut found) = (vec![from], BTreeSet::new());
    while let Some(file) = open.pop() {
        for to in arrows.get(file).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(*to) {
                open.push(to);
            }
        }
    }
    found
}

/// The files that use each other in a circle, each circle once.
fn circles<'a>(arrows: &BTreeMap<&'a str, BTreeMap<&'a str, usize>>) -> BTreeSet<BTreeSet<&'a str>> {
    let reach: BTreeMap<&str, BTreeSet<&str>> = arrows.keys().map(|file| (*file, reached(arrows, file))).collect();
    let back = |from: &str, to: &str| reach.get(to).is_some_and(|reach| reach.contains(from));
    let around = |from: &&str| reach[from].iter().copied().filter(|to| back(from, to)).collect::<BTreeSet<_>>();
    reach.keys().map(around).filter(|circle| !circle.is_empty()).collect()
}

#[test]
fn no_module_has_a_circle_inside() {
    let files = files();
    let parsed = AllParsed::of(&files);
    let all = parsed.uses();
    let known = |from: &str, to: &str, entry: &(&str, &str, &str)| {
        let below = |path: &str, it: &str| {
            let path = path.strip_prefix("src/").unwrap_or(path);
            path == it || it.ends_with('/') && path.starts_with(it)
        };
        below(from, entry.0) && below(to, entry.1)
    };
    let mut arrows = all.clone();
    for (from, used) in &mut arrows {
        used.retain(|to, _| !HARMLESS.iter().any(|entry| known(from, to, entry)));
    }
    let mut findings = Vec::new();
    for circle in circles(&arrows) {
        findings.push(format!("{} files use each other in a circle:", circle.len()));
        for from in &circle {
            let inside = arrows[from].iter().filter(|(to, _)| circle.contains(*to));
            findings.extend(inside.map(|(to, line)| format!("    {from}:{line} uses {to}")));
        }
    }
    let around = circles(&all);
    for entry in HARMLESS {
        let closes = |circle: &BTreeSet<&str>| {
            let ends = |from: &str| circle.iter().any(|to| all[from].contains_key(to) && known(from, to, entry));
            circle.iter().any(|from| ends(from))
        };
        if !around.iter().any(closes) {
            findings.push(format!("{} uses {} in no circle any more: remove it from the list", entry.0, entry.1));
        }
    }
    none("no module has a circle inside: move the items that both files need to a file below both", findings);
}
