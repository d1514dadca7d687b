//! Settings of the encoders, and how many frames are under way with them.

/// Most compression threads: more would need more memory than rxl allows itself, and outrun libxl's
/// single one anyway.
pub const MAX_THREADS: usize = 4;

/// Settings of a source's encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Whether frames are compressed with zstd. Pages of zeroes are left out either way.
    pub compress: bool,
    /// Level of zstd, -7 to 19.
    pub level: i32,
    /// Worker threads, 1 to [`MAX_THREADS`].
    pub threads: usize,
}

impl Packing {
    /// As many worker threads as there are processors, up to [`MAX_THREADS`].
    pub fn default_threads() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
    }

    /// Number of frames under way at once: one in each worker, one being read, one being written.
    pub fn window(&self) -> usize {
        self.threads.clamp(1, MAX_THREADS) + 2
    }

    /// Name of the codec in reports.
    pub fn codec_name(&self) -> &'static str {
        if self.compress { "zstd" } else { "none" }
    }
}
