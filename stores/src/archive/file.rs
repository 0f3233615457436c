//! Objects as files below `ROOT/<plane_id>/`.
//!
//! The rules: a file appears by one atomic step after its bytes are on disk, and the directory is synchronised after it; no symbolic
//! link below the prefix is followed; before anything is said or done, the root has shown its canary.
//!
//! If we die in a write, a file named `.tmp-…` is left beside the target: `list` shows it, a purge deletes it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use lethe_stages::ports::PortError;
use uuid::Uuid;

use super::{
    io_error,
    object::{Objects, checked},
    place::read_canary,
};

/// One plane's directory in an archive.
#[derive(Debug, Clone)]
pub(super) struct FileObjects {
    root: PathBuf,
    archive_id: Uuid,
    prefix: PathBuf,
}

/// Runs file I/O where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PortError> + Send + 'static,
) -> Result<T, PortError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(PortError::Transient(format!("wait for file work: {error}"))),
    }
}

impl FileObjects {
    /// Binds the plane's directory. Nothing is opened.
    pub(super) fn new(root: PathBuf, archive_id: Uuid, plane_id: Uuid) -> Self {
        let prefix = root.join(plane_id.to_string());
        Self { root, archive_id, prefix }
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, PortError> + Send + 'static,
    ) -> Result<T, PortError> {
        let this = self.clone();
        blocking(move || {
            this.right_place()?;
            work(&this)
        })
        .await
    }

    fn right_place(&self) -> Result<(), PortError> {
        let root = self.root.display();
        match read_canary(&self.root)? {
            Some(found) if found == self.archive_id => Ok(()),
            Some(found) => {
                Err(PortError::WrongPlace(format!("find archive {} at {root}: archive {found} is there", self.archive_id)))
            }
            None => {
                Err(PortError::WrongPlace(format!("find archive {} at {root}: no archive's canary is there", self.archive_id)))
            }
        }
    }

    /// The path of `key`, or an error where a link on the way could lead out of the prefix.
    fn path(&self, key: &str) -> Result<PathBuf, PortError> {
        let mut path = self.prefix.clone();
        self.no_link(&path)?;
        for component in checked(key)?.split('/') {
            path.push(component);
            self.no_link(&path)?;
        }
        Ok(path)
    }

    fn no_link(&self, path: &Path) -> Result<(), PortError> {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() => {
                Err(PortError::Permanent(format!("open {}: it is a symbolic link, and those are not followed", path.display())))
            }
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error(&format!("open {}", path.display()), &error)),
            _ => Ok(()),
        }
    }

    fn remove(&self, key: &str) -> Result<(), PortError> {
        // A link itself may go, a link on the way to the object is not followed.
        let parent = checked(key)?.rsplit_once('/').map(|(parent, _)| parent);
        parent.map_or_else(|| self.no_link(&self.prefix), |parent| self.path(parent).map(drop))?;
        let path = self.prefix.join(key);
        let doing = format!("delete {key}");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_error(&doing, &error)),
            _ => {}
        }
        match sync_parent(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error(&doing, &error)),
            _ => Ok(()),
        }
    }

    /// The path of `key` with its directories made.
    fn path_to_write(&self, key: &str) -> Result<PathBuf, PortError> {
        let path = self.path(key)?;
        let parent = path.parent().unwrap_or(&self.prefix);
        create_dirs(parent).map_err(|error| io_error(&format!("create {}", parent.display()), &error))?;
        Ok(path)
    }
}

#[async_trait]
impl Objects for FileObjects {
    async fn probe(&self) -> Result<String, PortError> {
        self.on_disk(|this| Ok(this.archive_id.to_string())).await
    }

    async fn put_new(&self, key: &str, bytes: Vec<u8>) -> Result<Option<Vec<u8>>, PortError> {
        let key = key.to_owned();
        self.on_disk(move |this| {
            let path = this.path_to_write(&key)?;
            let doing = format!("write {key}");
            if write_new(&path, &bytes).map_err(|error| io_error(&doing, &error))? {
                return Ok(None);
            }
            let present = fs::read(&path).map_err(|error| io_error(&doing, &error))?;
            // Whoever wrote it may have died before its directory was on disk.
            sync_parent(&path).map_err(|error| io_error(&doing, &error))?;
            Ok((present != bytes).then_some(present))
        })
        .await
    }

    async fn put_replace(&self, key: &str, bytes: Vec<u8>) -> Result<(), PortError> {
        let key = key.to_owned();
        self.on_disk(move |this| {
            let path = this.path_to_write(&key)?;
            let doing = format!("write {key}");
            // Whoever wrote the objects of which this one tells may have died before their names were on disk.
            let durable = sync_below(&this.prefix).and_then(|()| sync_dir(&this.root));
            durable.and_then(|()| write_replacing(&path, &bytes)).map_err(|error| io_error(&doing, &error))
        })
        .await
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PortError> {
        let key = key.to_owned();
        self.on_disk(move |this| match fs::read(this.path(&key)?) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(&format!("read {key}"), &error)),
        })
        .await
    }

    async fn list(&self) -> Result<Vec<String>, PortError> {
        self.on_disk(|this| {
            this.no_link(&this.prefix)?;
            let mut keys = Vec::new();
            list_below(&this.prefix, "", &mut keys).map_err(|error| io_error("list the archive", &error))?;
            keys.sort();
            Ok(keys)
        })
        .await
    }

    async fn may_delete(&self) -> Result<(), PortError> {
        self.on_disk(|_| Ok(())).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), PortError> {
        let keys = keys.to_vec();
        self.on_disk(move |this| keys.iter().try_for_each(|key| this.remove(key))).await
    }

    async fn close(&self) -> Result<(), PortError> {
        self.on_disk(|this| {
            this.no_link(&this.prefix)?;
            let removed = remove_empty(&this.prefix).and_then(|()| sync_dir(&this.root));
            removed.map_err(|error| io_error(&format!("remove {}", this.prefix.display()), &error))
        })
        .await
    }
}

/// Creates a directory and those above it that are missing, each durable in the one above it.
pub(super) fn create_dirs(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_dirs(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists || !path.is_dir() => Err(error),
        _ => sync_parent(path),
    }
}

/// Makes a directory's entries durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes every name below a directory durable.
fn sync_below(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_below(&entry.path())?;
        }
    }
    sync_dir(directory)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_dir)
}

/// Writes the bytes to a new file in `directory` and on to disk.
pub(super) fn write_temporary(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    // Two writers, of whatever process, never share a temporary file: a name that is taken is passed over.
    let (path, mut file) = loop {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!(".tmp-{}-{number}-{name}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => break (path, file),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    };
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // On a full disk, what could not be finished should not stay.
        drop(fs::remove_file(&path));
        return Err(error);
    }
    Ok(path)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Writes a file that is not there, atomically and durably. Answers whether it did; `false` where a file is there already.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    if path.try_exists()? {
        return Ok(false);
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let temporary = write_temporary(directory, &file_name(path), bytes)?;
    // A link, unlike a rename, never takes the place of a file that appeared meanwhile.
    let written = match fs::hard_link(&temporary, path) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        // This file system has no hard links. There, two writers of one object could pass each other between look and rename.
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
            fs::rename(&temporary, path)?;
            sync_dir(directory)?;
            return Ok(true);
        }
        Err(error) => return Err(error),
    };
    fs::remove_file(&temporary)?;
    sync_dir(directory)?;
    Ok(written)
}

pub(super) fn write_replacing(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let temporary = write_temporary(directory, &file_name(path), bytes)?;
    fs::rename(&temporary, path)?;
    sync_dir(directory)
}

/// The same for a file beside the planes, where no purge removes what a killed writer left: temporary files of this name that nobody
/// has locked any more go.
pub(super) fn write_replacing_tidily(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = file_name(path);
    loop {
        let temporary = write_temporary(directory, &name, bytes)?;
        // Held until the name is given. Somebody may have taken the file away between its creation and this lock.
        let held = File::open(&temporary).and_then(|file| file.lock().map(|()| file));
        match held.and_then(|_held| fs::rename(&temporary, path)) {
            Ok(()) => break,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let left = entry.file_name().to_str().is_some_and(|left| left.starts_with(".tmp-") && left.ends_with(&name));
        if left && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            drop(fs::remove_file(entry.path()));
        }
    }
    sync_dir(directory)
}

/// Files and links below `directory`, by keys that begin with `base`. An absent directory has none.
fn list_below(directory: &Path, base: &str, keys: &mut Vec<String>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| {
            io::Error::new(ErrorKind::InvalidFilename, format!("{} is not UTF-8 and not of this archive", name.to_string_lossy()))
        })?;
        let key = format!("{base}{name}");
        if entry.file_type()?.is_dir() {
            list_below(&entry.path(), &format!("{key}/"), keys)?;
        } else {
            keys.push(key);
        }
    }
    Ok(())
}

/// Removes a directory of nothing but empty directories. Absent is success.
fn remove_empty(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
