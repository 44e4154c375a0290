//! The runtime of `rei demo`: interprets source code. Arguments to functions, nothing else.

fn main() -> std::process::ExitCode {
    rei::demo::program::main()
}
