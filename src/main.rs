//! Arguments to commands, nothing else.

fn main() -> std::process::ExitCode {
    rei::cli::main(std::env::args_os())
}
