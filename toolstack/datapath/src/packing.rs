//! How pages are packed.

/// Most compression threads: more would need more memory than rxl allows itself, and outrun libxl's
/// single one anyway.
pub const MAX_THREADS: usize = 4;

/// How pages are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Compress with zstd.
    pub compress: bool,
    /// zstd's level.
    pub level: i32,
    /// Worker threads, 1 to [`MAX_THREADS`].
    pub threads: usize,
}

impl Packing {
    /// As many threads as there are processors, up to [`MAX_THREADS`].
    pub fn default_threads() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
    }

    /// Frames under way at once: one in each worker, one being read, one being written.
    pub fn window(&self) -> usize {
        self.threads.clamp(1, MAX_THREADS) + 2
    }

    /// For the report.
    pub fn codec_name(&self) -> &'static str {
        if self.compress { "zstd" } else { "none" }
    }
}
