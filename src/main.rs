//! Arguments to commands, nothing else.

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("keeper") => return rei::runtime::keeper::keeper_main(args[3].as_ref(), rei::runtime::keeper::ALONE_MAX),
        Some("builder") => return rei::validation::builder_main(),
        Some("builder-probe") => return rei::nix::probe_builder_main(),
        Some("run") => {
            tracing_subscriber::fmt()
                .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
                .with_writer(std::io::stderr)
                .init();
            let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let exe = std::env::current_exe().unwrap();
            let end = rt.block_on(rei::supervisor::supervise(args[2].as_ref(), &exe, || eprintln!("ready")));
            match end {
                Ok(end) => eprintln!("{end:?}"),
                Err(error) => eprintln!("error: {} hint: {:?}", rei::report::chain(&error), error.hint()),
            }
            return std::process::ExitCode::SUCCESS;
        }
        _ => {}
    }
    rei::cli::main(std::env::args_os())
}
