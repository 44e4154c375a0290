//! glibc: one line before it aborts the process, because the heap or the stack is damaged. There are no frames.

use super::language::{Fault, Head, Language, trace};

pub(super) const GLIBC: Language = Language {
    name: "c",
    head,
    frame: |_, _| None,
    read: |_, at, head| Some((Fault::single(trace(&GLIBC, head.reason, Vec::new())), at + 1)),
    headless: false,
    library: &[],
    library_places: &[],
};

/// Beginnings of the messages in glibc 2.36: `malloc/malloc.c`, `debug/`, `sysdeps/posix/libc_fatal.c`.
const MESSAGES: [&str; 17] = [
    "free(): ",
    "malloc(): ",
    "realloc(): ",
    "calloc(): ",
    "memalign(): ",
    "munmap_chunk(): ",
    "mremap_chunk(): ",
    "malloc_consolidate(): ",
    "double free or corruption",
    "corrupted size vs. prev_size",
    "corrupted double-linked list",
    "break adjusted to free malloc space",
    "invalid fastbin entry",
    "stack smashing detected",
    "buffer overflow detected",
    "Fatal glibc error: ",
    "%n in writable segment detected",
];

fn head(line: &str) -> Option<Head<'_>> {
    // Older versions put the program in front: `*** Error in `./served': free(): invalid pointer: 0x0 ***`.
    let text = line.strip_prefix("*** ").unwrap_or(line);
    let text = text.strip_prefix("Error in `").and_then(|it| it.split_once("': ")).map_or(text, |it| it.1);
    MESSAGES.iter().any(|known| text.starts_with(known)).then(|| Head::new(line))
}
