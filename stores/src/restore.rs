//! A new store, made from archived records: built beside its place under a temporary name, compared, and only then given its own.
//!
//! The rules: a file that is there is never written or replaced; what gets its name is complete, on disk and compared; a draft that is
//! dropped takes its file with it. One process at a time builds a file: the temporary one is locked as long as the draft lives.
//!
//! If we die in it, the temporary file stays, `.NAME.restoring`; the next draft in the same folder removes it. If we die after it got
//! its name and before anybody put it on record, the next draft of the same content takes it over.

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use lethe_stages::{
    ports::PortError,
    record::{Column, Record, RecordDigest},
};

use crate::{
    Mapping,
    archive::{blocking, io_error, sync_dir},
    sqlite::Rebuild,
    store_url::sqlite_path,
};

const SUFFIX: &str = ".restoring";

/// A store in the making. Dropped, it leaves nothing behind; kept, it leaves the file.
pub struct StoreDraft {
    target: PathBuf,
    temporary: PathBuf,
    rebuild: Option<Rebuild>,
    tables: usize,
    /// Whether the folder was made for it.
    made_folder: bool,
    /// Whether the target is there and is what was built: left by an attempt that died.
    found: bool,
    /// Whether the target is this draft's own doing.
    placed: bool,
    kept: bool,
    /// Released when the draft is dropped, after everything else. SQLite's locks are of another kind.
    _lock: File,
}

impl StoreDraft {
    /// Begins a store at `sqlite:FILE`. The folder is created if only it is missing; what attempts that died left in it is removed.
    ///
    /// # Errors
    /// Permanent where the URL names no file that could be created, Transient where somebody else is building it now.
    pub async fn begin(url: &str) -> Result<Self, PortError> {
        let path = sqlite_path(url)?;
        let mut draft = blocking(move || begin(&path)).await?;
        draft.rebuild = Some(Rebuild::open(draft.temporary.clone()).await?);
        Ok(draft)
    }

    /// The canonical URL that the store will have.
    pub fn url(&self) -> String {
        format!("sqlite:{}", self.target.display())
    }

    /// Whether there is a file of the store's name already.
    pub fn is_there(&self) -> bool {
        self.target.symlink_metadata().is_ok()
    }

    /// Creates the mapping's table with these columns, in their order; the key column is its primary key. Answers its place, from 0.
    pub async fn create(&mut self, mapping: Mapping, columns: &[Column]) -> Result<usize, PortError> {
        self.tables += 1;
        self.open()?.create(mapping, columns).await
    }

    /// Adds records to a table, each with its digest. One whose key is there already takes its place.
    pub async fn put(&mut self, table: usize, records: &[Record], digests: &[RecordDigest]) -> Result<(), PortError> {
        self.open()?.put(table, records, digests).await
    }

    /// Puts the file on disk, reads all of it again and compares each record with the digest it came with. Answers the number of
    /// records by table. Nothing can be added afterwards.
    ///
    /// # Errors
    /// Permanent where a record is missing, is one too many or differs.
    pub async fn seal(&mut self) -> Result<Vec<u64>, PortError> {
        let temporary = self.temporary.clone();
        let doing = format!("synchronise {}", temporary.display());
        blocking(move || File::open(&temporary).and_then(|file| file.sync_all()).map_err(|error| io_error(&doing, &error)))
            .await?;
        let mut rebuild = self.rebuild.take().ok_or_else(sealed)?;
        let mut rows = Vec::with_capacity(self.tables);
        for table in 0..self.tables {
            rows.push(rebuild.compare(table).await?);
        }
        rebuild.close().await;
        Ok(rows)
    }

    /// Gives the sealed file its name, durably. A file of that name stays as it is: it is taken over if it is byte for byte what was
    /// built, and is an error otherwise.
    pub async fn place(&mut self) -> Result<(), PortError> {
        if self.rebuild.is_some() {
            return Err(PortError::Permanent(format!("name {}: it is not complete", self.target.display())));
        }
        let (temporary, target) = (self.temporary.clone(), self.target.clone());
        let doing = format!("name {}", target.display());
        let (placed, found) = blocking(move || place(&temporary, &target).map_err(|error| io_error(&doing, &error))).await?;
        (self.placed, self.found) = (placed, found);
        if placed || found {
            return Ok(());
        }
        Err(PortError::Permanent(format!("name {}: there is a file of this name", self.target.display())))
    }

    /// Lets go of the draft and leaves the file.
    pub fn keep(mut self) {
        self.kept = self.placed || self.found;
    }

    fn open(&mut self) -> Result<&mut Rebuild, PortError> {
        self.rebuild.as_mut().ok_or_else(sealed)
    }
}

impl Drop for StoreDraft {
    fn drop(&mut self) {
        // What cannot be removed now, the next draft removes.
        drop(self.rebuild.take());
        drop(fs::remove_file(&self.temporary));
        if self.placed && !self.kept {
            drop(fs::remove_file(&self.target));
        }
        if self.made_folder
            && !self.kept
            && let Some(folder) = self.target.parent()
        {
            // Only an empty one goes.
            drop(fs::remove_dir(folder));
        }
    }
}

fn sealed() -> PortError {
    PortError::Permanent("write a restored store: it is sealed".into())
}

fn begin(path: &Path) -> Result<StoreDraft, PortError> {
    let refused = |why: &str| PortError::Permanent(format!("create store {}: {why}", path.display()));
    let path = std::path::absolute(path).map_err(|error| refused(&error.to_string()))?;
    let file_name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| refused("it names no file"))?;
    let parent = path.parent().ok_or_else(|| refused("it names no file"))?;
    let made_folder = match fs::create_dir(parent) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(io_error(&format!("create folder {}", parent.display()), &error)),
    };
    let folder = parent.canonicalize().map_err(|error| io_error(&format!("find folder {}", parent.display()), &error))?;
    let target = folder.join(file_name);
    if target.to_str().is_none_or(|text| text.contains('?')) {
        return Err(refused("its path is not UTF-8 or holds a `?`"));
    }
    remove_abandoned(&folder).map_err(|error| io_error(&format!("look through {}", folder.display()), &error))?;
    let temporary = folder.join(format!(".{file_name}{SUFFIX}"));
    let doing = format!("create {}", temporary.display());
    let lock = match create_locked(&temporary) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Err(PortError::Transient(format!("{doing}: another restore is building it"))),
        Err(error) => {
            if made_folder {
                drop(fs::remove_dir(&folder));
            }
            return Err(io_error(&doing, &error));
        }
    };
    Ok(StoreDraft {
        target,
        temporary,
        rebuild: None,
        tables: 0,
        made_folder,
        found: false,
        placed: false,
        kept: false,
        _lock: lock,
    })
}

/// Removes temporary files that nobody holds.
fn remove_abandoned(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(SUFFIX));
        if ours && entry.file_type()?.is_file() {
            match File::open(entry.path()) {
                // Held while it is removed: whoever waits for this lock then finds that the name is another file's.
                Ok(file) if file.try_lock().is_ok() => fs::remove_file(entry.path())?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// Creates the file and locks it; `None` where somebody else holds it.
fn create_locked(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..10 {
        let file = match File::create_new(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
            created => created?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Somebody may have taken it for abandoned between its creation and the lock.
        let (own, named) = (file.metadata()?, fs::metadata(path));
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino())) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// Names the file. Answers whether it did, and otherwise whether what is there already is the same.
fn place(temporary: &Path, target: &Path) -> io::Result<(bool, bool)> {
    // A link, unlike a rename, never takes the place of a file.
    let sync_name = || target.parent().map_or(Ok(()), sync_dir);
    let named = match fs::hard_link(temporary, target) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let same = same(temporary, target)?;
            // Whoever named it may have died before the name was on disk.
            return if same { sync_name().map(|()| (false, true)) } else { Ok((false, false)) };
        }
        // This file system has no hard links. There, somebody else could come between look and rename.
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
            if target.symlink_metadata().is_ok() {
                return Ok((false, same(temporary, target)?));
            }
            fs::rename(temporary, target)
        }
        Ok(()) => fs::remove_file(temporary),
        Err(error) => return Err(error),
    };
    let durable = named.and_then(|()| sync_name());
    if let Err(error) = durable {
        drop(fs::remove_file(target));
        return Err(error);
    }
    Ok((true, false))
}

/// Whether the target is a file with the same bytes.
fn same(temporary: &Path, target: &Path) -> io::Result<bool> {
    let found = target.symlink_metadata()?;
    if !found.is_file() || found.len() != fs::metadata(temporary)?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (File::open(temporary)?, File::open(target)?);
    let (mut one, mut other) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let read = left.read(&mut one)?;
        if read == 0 {
            return Ok(true);
        }
        right.read_exact(&mut other[..read])?;
        if one[..read] != other[..read] {
            return Ok(false);
        }
    }
}
