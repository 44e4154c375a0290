//! Passes the arguments to the command line interface.

fn main() -> std::process::ExitCode {
    rei::cli::main(std::env::args_os())
}
