//! `settle_threads` in a process of one thread: this file is a program of its own, without a test harness.

use std::process::ExitCode;

fn main() -> ExitCode {
    let settled = dml_kernels::settle_threads();
    if !cfg!(target_os = "linux") {
        return ExitCode::SUCCESS;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let candle = std::env::var("CANDLE_NUM_THREADS");
    // The calling thread belongs to the pool, unless there is one thread only.
    let inside = rayon::current_thread_index().is_some();
    // Work is still shared, and a stranger's work is done as well.
    let sum = || rayon::join(|| 1, || 2);
    let stranger = std::thread::spawn(sum).join();
    if settled
        && candle.is_ok()
        && (inside || threads < 2)
        && sum() == (1, 2)
        && stranger.is_ok_and(|s| s == (1, 2))
    {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "settled {settled}, CANDLE_NUM_THREADS {candle:?}, inside the pool {inside}, {threads} threads"
    );
    ExitCode::FAILURE
}
