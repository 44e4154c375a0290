//! The interface definition files: composed from the code, written and compared by the tests here.

use std::fmt::Write as _;
use std::path::Path;

use zlink::idl::{Comment, CustomType, EnumVariant, Error, Field, Interface, List, Method, Type};

/// The definitions of the types named.
macro_rules! types {
    ($($name:ty),* $(,)?) => {
        vec![$(<$name as zlink::introspect::CustomType>::CUSTOM_TYPE.clone()),*]
    };
}
pub(super) use types;

/// A method whose inputs and outputs are the fields of two object types.
pub(super) fn method(
    name: &'static str,
    input: &'static Type<'static>,
    output: &'static Type<'static>,
    docs: &[&'static str],
) -> Method<'static> {
    let fields = |list: &'static Type<'static>| {
        let fields = list.as_object().map(List::iter).into_iter().flatten();
        fields.map(|field| Field::new(field.name().clone(), field.ty(), &[])).collect()
    };
    Method::new_owned(name, fields(input), fields(output), comments(docs)).unwrap()
}

/// A whole interface.
pub(super) fn interface(
    name: &'static str,
    docs: &[&'static str],
    methods: Vec<Method<'static>>,
    types: Vec<CustomType<'static>>,
    errors: &[&Error<'static>],
) -> Interface<'static> {
    let errors = errors.iter().map(|error| (*error).clone()).collect();
    Interface::new_owned(name, methods, types, errors, comments(docs)).unwrap()
}

fn comments(docs: &[&'static str]) -> Vec<Comment<'static>> {
    docs.iter().map(|line| Comment::new(line.trim())).collect()
}

/// The text of a definition file: one field a line, with its comment above it.
fn render(interface: &Interface<'_>) -> String {
    let mut text = String::new();
    write_comments(&mut text, "", interface.comments());
    writeln!(text, "interface {}", interface.name()).unwrap();
    for method in interface.methods() {
        text.push('\n');
        write_comments(&mut text, "", method.comments());
        writeln!(text, "{}", signature(method)).unwrap();
    }
    for custom in interface.custom_types() {
        text.push('\n');
        match custom {
            CustomType::Object(object) => {
                write_comments(&mut text, "", object.comments());
                write!(text, "type {} (", object.name()).unwrap();
                write_fields(&mut text, object.fields());
            }
            CustomType::Enum(listed) => {
                write_comments(&mut text, "", listed.comments());
                write!(text, "type {} (", listed.name()).unwrap();
                write_variants(&mut text, listed.variants());
            }
        }
    }
    for error in interface.errors() {
        text.push('\n');
        write_comments(&mut text, "", error.comments());
        write!(text, "error {} (", error.name()).unwrap();
        write_fields(&mut text, error.fields());
    }
    text
}

/// The method on one line, as a caller in any language reads it.
fn signature(method: &Method<'_>) -> String {
    let list = |fields: Vec<&Field<'_>>| {
        let fields: Vec<_> = fields.iter().map(|field| format!("{}: {}", field.name(), field.ty())).collect();
        fields.join(", ")
    };
    let (inputs, outputs) = (list(method.inputs().collect()), list(method.outputs().collect()));
    format!("method {}({inputs}) -> ({outputs})", method.name())
}

fn write_comments<'a>(text: &mut String, indent: &str, comments: impl Iterator<Item = &'a Comment<'a>>) {
    for comment in comments {
        // Links are Rust's; the file is for everyone.
        let line = comment.content().trim().replace("[`", "`").replace("`]", "`");
        writeln!(text, "{}", format!("{indent}# {line}").trim_end()).unwrap();
    }
}

fn write_fields<'a>(text: &mut String, fields: impl Iterator<Item = &'a Field<'a>>) {
    let fields: Vec<_> = fields.collect();
    for (index, field) in fields.iter().enumerate() {
        text.push('\n');
        write_comments(text, "  ", field.comments());
        let comma = if index + 1 < fields.len() { "," } else { "\n" };
        write!(text, "  {}: {}{comma}", field.name(), field.ty()).unwrap();
    }
    text.push_str(")\n");
}

fn write_variants<'a>(text: &mut String, variants: impl Iterator<Item = &'a EnumVariant<'a>>) {
    let variants: Vec<_> = variants.collect();
    for (index, variant) in variants.iter().enumerate() {
        text.push('\n');
        write_comments(text, "  ", variant.comments());
        let comma = if index + 1 < variants.len() { "," } else { "\n" };
        write!(text, "  {}{comma}", variant.name()).unwrap();
    }
    text.push_str(")\n");
}

/// The file must be what the code says, to the letter; `REI_BLESS=1` writes it.
fn check(composed: &Interface<'_>, definition: &str) {
    let text = render(composed);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("interface/{}.varlink", composed.name()));
    if std::env::var_os("REI_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    } else {
        let difference = definition.lines().zip(text.lines()).find(|(file, code)| file != code);
        assert!(definition == text, "{} differs ({difference:?}): REI_BLESS=1 cargo test idl", path.display());
    }
    let parsed = Interface::try_from(text.as_str()).expect("the definition can be parsed");
    let again = render(&parsed);
    let difference = again.lines().zip(text.lines()).find(|(parsed, code)| parsed != code);
    assert!(again == text, "the definition is read as something else: {difference:?}");
}

/// Every type that is used is defined, and no name means two things: some callers keep all members in one table.
/// `stored` are the types that no method takes or gives: they are part of the Interface as it is stored.
fn check_names(interface: &Interface<'_>, stored: &[&str]) {
    let defined: Vec<_> = interface.custom_types().map(|custom| custom.name().to_string()).collect();
    let mut members = defined.clone();
    members.extend(interface.methods().map(|method| method.name().to_string()));
    members.extend(interface.errors().map(|error| error.name().to_string()));
    members.sort();
    let twice = members.windows(2).find(|pair| pair[0] == pair[1]);
    assert!(twice.is_none(), "{twice:?} is defined twice");
    let mut used = Vec::new();
    let parameters = interface.methods().flat_map(|method| method.inputs().chain(method.outputs()));
    let of_types = interface.custom_types().filter_map(CustomType::as_object).flat_map(|object| object.fields());
    let of_errors = interface.errors().flat_map(|error| error.fields());
    for field in parameters.chain(of_types).chain(of_errors) {
        names_in(field.ty(), &mut used);
    }
    for name in &used {
        assert!(defined.contains(name), "{name} is used and not defined");
    }
    for name in &defined {
        assert!(used.contains(name) || stored.contains(&name.as_str()), "{name} is defined and not used");
    }
}

fn names_in(ty: &Type<'_>, names: &mut Vec<String>) {
    match ty {
        Type::Custom(name) => names.push(name.to_string()),
        Type::Optional(inner) | Type::Array(inner) | Type::Map(inner) => names_in(inner.inner(), names),
        Type::Object(fields) => fields.iter().for_each(|field| names_in(field.ty(), names)),
        Type::Bool | Type::Int | Type::Float | Type::String | Type::ForeignObject | Type::Any | Type::Enum(_) => {}
    }
}

#[test]
fn the_file_of_runtime_evolution_is_the_code() {
    let composed = super::evolution::definition();
    check_names(&composed, &["RuntimeMaintenanceRecord"]);
    check(&composed, super::evolution::DEFINITION);
}

#[test]
fn the_file_of_supervisor_is_the_code() {
    let composed = super::operations::definition();
    check_names(&composed, &[]);
    check(&composed, super::operations::DEFINITION);
}

#[test]
fn the_file_of_access_is_the_code() {
    let composed = super::proof::definition();
    check_names(&composed, &[]);
    check(&composed, super::proof::DEFINITION);
}

/// Its row is all that an operation needs here: no other place spells it, but for the one that is a stream.
#[test]
fn an_operation_is_one_row() {
    let sources = [include_str!("operations.rs"), include_str!("client.rs")];
    for method in super::operations::call::methods().iter().filter(|method| method.name() != "Monitor") {
        let mut function = String::new();
        for c in method.name().chars() {
            if c.is_uppercase() && !function.is_empty() {
                function.push('_');
            }
            function.extend(c.to_lowercase());
        }
        for source in sources {
            assert!(!source.contains(&format!("fn {function}(")), "{function} is spelled beside its row");
        }
    }
}
