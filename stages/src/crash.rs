//! Places where the tests kill the process, to prove that dying there loses nothing and repeats nothing.
//!
//! The rule: without the `testing` feature, [`reached`] is empty and no crash point is in the binary.

/// Declares the crash points.
macro_rules! crash_points {
    ($($(#[$meta:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// A place where a process may die. Named by what has just been done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum CrashPoint { $($(#[$meta])* $name),* }
        impl CrashPoint {
            /// Every place.
            pub const ALL: &'static [CrashPoint] = &[$(CrashPoint::$name),*];
            /// The name by which a test chooses it.
            pub fn as_str(self) -> &'static str { match self { $(CrashPoint::$name => $text),* } }
        }
    };
}

crash_points! {
    /// The claim is committed, the handler has not begun.
    Claimed = "claimed",
    /// Deregister wrote down what it is about to suspend.
    DeregisterNoted = "deregister.noted",
    /// Deregister suspended a dependent.
    DeregisterSuspended = "deregister.suspended",
    /// Deregister fenced the stores, nothing is recorded.
    DeregisterFenced = "deregister.fenced",
    /// Verify asked the stores.
    VerifyProbed = "verify.probed",
    /// Deactivate closed the stores.
    DeactivateClosed = "deactivate.closed",
    /// One part is written.
    ExportPartWritten = "export.part_written",
    /// All parts are written and read back, the manifest is not written.
    ExportReadBack = "export.read_back",
    /// The manifest is written.
    ExportManifestWritten = "export.manifest_written",
    /// One batch is gone from the hot store.
    EvictBatchErased = "evict.batch_erased",
    /// All records are gone, their bytes perhaps not.
    EvictErased = "evict.erased",
    /// The bytes are gone too.
    EvictScrubbed = "evict.scrubbed",
    /// The purge made sure of the hot stores.
    PurgeStoresEmpty = "purge.stores_empty",
    /// A batch of objects of the archive is gone.
    PurgeObjectDeleted = "purge.object_deleted",
    /// All objects but the manifest are gone.
    PurgePartsDeleted = "purge.parts_deleted",
    /// The manifest is gone too.
    PurgeManifestDeleted = "purge.manifest_deleted",
    /// Restore lifted the fence.
    RestoreUnfenced = "restore.unfenced",
    /// Restore let a dependent go on.
    RestoreResumed = "restore.resumed",
    /// Restore wrote down what it gave back, its run is not recorded.
    RestoreSettled = "restore.settled",
    /// One part of an archive is copied into the file that is being restored.
    ArchivePartRestored = "archive.part_restored",
    /// The restored file has its name, nothing is recorded.
    ArchiveRestoreNamed = "archive.restore_named",
    /// Entries are sealed and the checkpoint is signed, nothing of it is published.
    LogSealed = "log.sealed",
    /// A tile of the log is published, its checkpoint is not.
    LogTilePublished = "log.tile_published",
    /// The checkpoint is published, and the ledger does not know it.
    LogCheckpointPublished = "log.checkpoint_published",
    /// A handler returned, its record is not committed.
    Performed = "performed",
    /// The record is committed.
    Recorded = "recorded",
    /// A transaction of the ledger is committed, whichever it is.
    Committed = "committed",
}

/// Dies here if the environment's `LETHE_CRASH_AT` names `point` (`name` or `name#n` for the n-th time, from 1).
#[cfg(feature = "testing")]
pub fn reached(point: CrashPoint) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let Ok(wanted) = std::env::var("LETHE_CRASH_AT") else { return };
    let (name, nth) = wanted.split_once('#').map_or((wanted.as_str(), 1), |(name, n)| (name, n.parse().unwrap_or(1)));
    if name == point.as_str() && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == nth {
        eprintln!("crash point {name} reached");
        let _ = std::process::Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
        loop {
            std::thread::park();
        }
    }
}

/// Nothing: the binary was built without crash points.
#[cfg(not(feature = "testing"))]
pub fn reached(_point: CrashPoint) {}
