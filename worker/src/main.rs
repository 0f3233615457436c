//! The `lethe` program.

fn main() -> std::process::ExitCode {
    lethe_worker::cli::main()
}
