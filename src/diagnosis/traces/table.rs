//! The table of languages: one row for each, in the order in which a line is compared with their heads.

use super::language::Language;
use super::{
    assertion, cpp, dotnet, elixir, erlang, glibc, go, go_race, java, node, php, python, ruby, rust, sanitizer,
};

/// All languages. The heads at the beginning say the language; the heads of the last ones fit other lines, too, so there the
/// frames decide.
pub(super) static LANGUAGES: [&Language; 15] = [
    &rust::RUST,
    &go::GO,
    &go_race::GO_RACE,
    &sanitizer::SANITIZER,
    &cpp::CPP,
    &glibc::GLIBC,
    &assertion::ASSERTION,
    &php::PHP,
    &elixir::ELIXIR,
    &erlang::ERLANG,
    &ruby::RUBY,
    &python::PYTHON,
    &dotnet::DOTNET,
    &java::JAVA,
    &node::NODE,
];

/// True if a frame of this language belongs to its panic handling or its standard library.
pub(in crate::diagnosis) fn is_library(language: &str, frame: &str) -> bool {
    LANGUAGES.iter().filter(|it| it.name == language).any(|it| {
        it.library.iter().any(|start| frame.starts_with(start))
            || it.library_places.iter().any(|part| frame.contains(part))
    })
}
