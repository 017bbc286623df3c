//! The threads of a program that trains.

/// Arranges threads so that kernels get the cores; call it first in `main`, before anything starts a thread.
///
/// candle's elementwise operations on large tensors hand half of the work to threads of their own, which then wait
/// for more by spinning, on the cores that the kernels' threads want: that alone can double the time of a training
/// step. This turns candle's threads off (`CANDLE_NUM_THREADS=1`, unless the variable is set), and makes the
/// calling thread one of the kernels' threads, so that it works instead of sleeping while they do.
///
/// Returns whether both were done. They are left as they are where the process has other threads already or that
/// cannot be told (elsewhere than on Linux); set the variable outside then, e.g. under `[env]` in
/// `.cargo/config.toml`.
///
/// After it, a thread that is not rayon's own and waits for a kernel shares the threads of the pool but the calling
/// one; give such threads a pool of their own.
///
/// ```no_run
/// dml_kernels::settle_threads(); // the first line of `main`
/// ```
pub fn settle_threads() -> bool {
    const VARIABLE: &str = "CANDLE_NUM_THREADS";
    if !alone() {
        return false;
    }
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: changing the environment races only with other threads that read it, and there are none: this
        // thread has just counted the threads of the process and found one, and no other can start one meanwhile.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
    // With one thread the pool would be the caller alone, and whoever else waits for it would wait for ever.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    if wanted.unwrap_or(threads) < 2 {
        return true;
    }
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().is_ok()
}

/// Whether this thread is the only one of the process.
fn alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_other_threads_is_left_as_it_is() {
        // The test harness is one.
        let before = std::env::var_os("CANDLE_NUM_THREADS");
        std::thread::scope(|scope| {
            let (keep, wait) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || wait.recv());
            assert!(!alone() && !settle_threads());
            drop(keep);
        });
        assert_eq!(std::env::var_os("CANDLE_NUM_THREADS"), before);
    }
}
