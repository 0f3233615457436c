//! A folder as a power cut could have left it. `disk.c` writes down what a program does to the folder; what was synchronised when the
//! power went is there, and of everything else whatever a fate lets through.
//!
//! The rules are those of POSIX, without the kindness of any one file system: a file's bytes are certain after fsync of the file, a name
//! after fsync of its folder. What is not certain may be there or not, each change for itself, and of a write each sector.

use std::{
    collections::{BTreeMap, HashMap},
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::random::Random;

const SECTOR: usize = 512;

/// Compiles `disk.c`, once in this process; answers the library.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support/disk.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Several test programs may do this at once.
        let (mine, library) = (folder.join(format!("disk-{}.so", std::process::id())), folder.join("disk.so"));
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-Wall", "-o"]).arg(&mine).arg(source).status();
        assert!(compiled.expect("a C compiler, as tests/run says").success(), "compile disk.c");
        std::fs::rename(mine, &library).expect("name the library");
        library
    })
}

/// The environment in which a program's changes to `root` are appended to `journal`.
pub fn recording(root: &Path, journal: &Path) -> Vec<(&'static str, String)> {
    let named = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
    vec![("LD_PRELOAD", named(shim())), ("LETHE_DISK_ROOT", named(root)), ("LETHE_DISK_JOURNAL", named(journal))]
}

/// One line of the journal.
#[derive(Debug, Clone)]
pub struct Change {
    pub what: What,
    /// What it was done to.
    pub path: PathBuf,
    inode: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Create,
    MakeFolder,
    Link,
    Unlink,
    Rename(PathBuf),
    Write(usize, Vec<u8>),
    Truncate(usize),
    SyncBegin(u64),
    SyncEnd(u64),
}

/// The numbers of [`What`]'s kinds in `disk.c`, for `LETHE_DISK_KILL`.
pub mod kind {
    pub const MAKE_FOLDER: u32 = 2;
    pub const LINK: u32 = 3;
    pub const RENAME: u32 = 5;
    pub const WRITE: u32 = 6;
}

/// Reads a journal from its `from`-th byte on; answers its changes and its length.
pub fn read(journal: &Path, from: usize) -> (Vec<Change>, usize) {
    let bytes = std::fs::read(journal).expect("read the journal");
    let mut changes = Vec::new();
    let mut rest = &bytes[from..];
    let mut take = |length: usize| {
        let (taken, left) = rest.split_at_checked(length)?;
        rest = left;
        Some(taken)
    };
    while let Some(head) = take(40) {
        let short = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap()) as usize;
        let long = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().unwrap());
        let mut text = |length| PathBuf::from(String::from_utf8_lossy(take(length).expect("a whole record")).into_owned());
        let (path, other) = (text(short(4)), text(short(8)));
        let data = take(short(12)).expect("a whole record");
        let what = match short(0) {
            1 => What::Create,
            2 => What::MakeFolder,
            3 => What::Link,
            4 => What::Unlink,
            5 => What::Rename(other),
            6 => What::Write(long(24) as usize, data.to_vec()),
            7 => What::Truncate(long(24) as usize),
            8 => What::SyncBegin(long(32)),
            9 => What::SyncEnd(long(32)),
            kind => panic!("the journal holds a record of kind {kind}"),
        };
        changes.push(Change { what, path, inode: long(16) });
    }
    (changes, bytes.len())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(usize),
    Folder(usize),
}

/// Changes that are made and, as far as `certain` does not hold them, may be lost.
#[derive(Debug, Clone)]
struct Layers<C, P> {
    certain: C,
    pending: Vec<P>,
    /// How many were pending once and are certain now.
    settled: usize,
}

type Names = BTreeMap<String, Node>;

#[derive(Debug, Clone)]
enum Edit {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

#[derive(Debug, Clone)]
struct Folder {
    /// As programs see it.
    now: Names,
    names: Layers<Names, Vec<(String, Option<Node>)>>,
}

/// What becomes of that which was not synchronised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// All of it is lost.
    Lost,
    /// Names are there, bytes are not.
    Names,
    /// Bytes are there, names are not.
    Bytes,
    /// Each change for itself is lost, there, or there in some of its sectors.
    Torn,
    /// All of it is there, as after a mere kill.
    Whole,
}

impl Fate {
    pub const ALL: [Self; 5] = [Self::Lost, Self::Names, Self::Bytes, Self::Torn, Self::Whole];
}

/// What stands on a disk: files with their bytes, and folders.
pub type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// Whether a synchronisation of this path below the root, a folder or not, is taken for done and is not.
pub type Deaf = fn(&str, bool) -> bool;

/// A folder and its past.
#[derive(Clone)]
pub struct Disk {
    root: PathBuf,
    files: Vec<Layers<Vec<u8>, Edit>>,
    folders: Vec<Folder>,
    nodes: HashMap<u64, Node>,
    syncing: HashMap<(u64, u64), usize>,
    deaf: Deaf,
}

impl Disk {
    /// The folder as it stands, all of it certain. SQLite's memory maps are left out, see `disk.c`.
    pub fn of(root: &Path) -> Self {
        let mut disk = Self {
            root: root.to_owned(),
            files: Vec::new(),
            folders: Vec::new(),
            nodes: HashMap::new(),
            syncing: HashMap::new(),
            deaf: |_, _| false,
        };
        disk.scan(root);
        disk
    }

    /// The same disk, on which these synchronisations do nothing.
    pub fn deaf_to(mut self, deaf: Deaf) -> Self {
        self.deaf = deaf;
        self
    }

    fn scan(&mut self, path: &Path) -> Node {
        let node = if path.is_dir() {
            let Node::Folder(number) = self.new_folder() else { unreachable!("a folder") };
            for entry in path.read_dir().expect("read the folder") {
                let name = entry.expect("an entry").file_name().into_string().expect("a name in UTF-8");
                let node = self.scan(&path.join(&name));
                self.folders[number].now.insert(name.clone(), node);
                self.folders[number].names.certain.insert(name, node);
            }
            Node::Folder(number)
        } else {
            self.new_file(std::fs::read(path).expect("read the file"))
        };
        self.nodes.insert(path.metadata().expect("look at the file").ino(), node);
        node
    }

    fn new_file(&mut self, certain: Vec<u8>) -> Node {
        self.files.push(Layers { certain, pending: Vec::new(), settled: 0 });
        Node::File(self.files.len() - 1)
    }

    fn new_folder(&mut self) -> Node {
        let names = Layers { certain: Names::new(), pending: Vec::new(), settled: 0 };
        self.folders.push(Folder { now: Names::new(), names });
        Node::Folder(self.folders.len() - 1)
    }

    /// The folder in which a path's last name stands, and that name.
    fn place(&self, path: &Path) -> (usize, String) {
        let mut components: Vec<_> = path.strip_prefix(&self.root).expect("below the root").components().collect();
        components.retain(|component| *component != Component::CurDir);
        let name = |component: &Component<'_>| component.as_os_str().to_str().expect("a name in UTF-8").to_owned();
        let last = name(&components.pop().expect("a name"));
        let folder = components.iter().fold(0, |folder, component| match self.folders[folder].now.get(&name(component)) {
            Some(Node::Folder(next)) => *next,
            other => panic!("{} leads through {other:?}", path.display()),
        });
        (folder, last)
    }

    fn rename(&mut self, folder: usize, names: Vec<(String, Option<Node>)>) {
        let folder = &mut self.folders[folder];
        name_all(&mut folder.now, &names);
        folder.names.pending.push(names);
    }

    fn file(&mut self, change: &Change) -> &mut Layers<Vec<u8>, Edit> {
        match self.nodes.get(&change.inode) {
            Some(Node::File(number)) => &mut self.files[*number],
            other => panic!("{change:?} is done to {other:?}: disk.c missed how it came about"),
        }
    }

    /// Makes one change.
    pub fn apply(&mut self, change: &Change) {
        if change.path.to_string_lossy().trim_end_matches(" (deleted)").ends_with("-shm") {
            return;
        }
        match &change.what {
            What::Create | What::MakeFolder | What::Link => {
                let (folder, name) = self.place(&change.path);
                let known = self.folders[folder].now.get(&name).copied();
                if known.is_some() && known == self.nodes.get(&change.inode).copied() {
                    return; // Two threads created it at once.
                }
                let node = match change.what {
                    What::Create => self.new_file(Vec::new()),
                    What::MakeFolder => self.new_folder(),
                    _ => self.nodes[&change.inode],
                };
                self.nodes.insert(change.inode, node);
                self.rename(folder, vec![(name, Some(node))]);
            }
            What::Unlink => {
                let (folder, name) = self.place(&change.path);
                self.rename(folder, vec![(name, None)]);
            }
            What::Rename(to) => {
                let ((folder, from), (target, to)) = (self.place(&change.path), self.place(to));
                assert_eq!(folder, target, "a rename from folder to folder is not modelled");
                let node = self.folders[folder].now[&from];
                self.rename(folder, vec![(from, None), (to, Some(node))]);
            }
            What::Write(offset, bytes) => self.file(change).pending.push(Edit::Write(*offset, bytes.clone())),
            What::Truncate(size) => self.file(change).pending.push(Edit::Truncate(*size)),
            What::SyncBegin(thread) => {
                let reached = match self.nodes[&change.inode] {
                    Node::File(number) => self.files[number].settled + self.files[number].pending.len(),
                    Node::Folder(number) => self.folders[number].names.settled + self.folders[number].names.pending.len(),
                };
                self.syncing.insert((*thread, change.inode), reached);
            }
            What::SyncEnd(thread) => {
                let reached = self.syncing.remove(&(*thread, change.inode)).expect("it began");
                let below = change.path.strip_prefix(&self.root).expect("below the root").to_string_lossy();
                if (self.deaf)(&below, matches!(self.nodes[&change.inode], Node::Folder(_))) {
                    return;
                }
                match self.nodes[&change.inode] {
                    Node::File(number) => {
                        let file = &mut self.files[number];
                        for edit in file.settle(reached) {
                            edit_file(&mut file.certain, &edit, |_| true);
                        }
                    }
                    Node::Folder(number) => {
                        let names = &mut self.folders[number].names;
                        names.settle(reached).iter().for_each(|names_of_one| name_all(&mut names.certain, names_of_one));
                    }
                }
            }
        }
    }

    /// What stands on it after a power cut now.
    pub fn after_power_cut(&self, fate: Fate, random: &mut Random) -> Image {
        let mut image = Image::new();
        self.draw(Node::Folder(0), &self.root, fate, random, &mut image);
        image
    }

    fn draw(&self, node: Node, path: &Path, fate: Fate, random: &mut Random, image: &mut Image) {
        match node {
            Node::File(number) => {
                let file = &self.files[number];
                let mut bytes = file.certain.clone();
                for edit in &file.pending {
                    match fate {
                        Fate::Lost | Fate::Names => {}
                        Fate::Whole | Fate::Bytes => edit_file(&mut bytes, edit, |_| true),
                        Fate::Torn => match random.between(0, 2) {
                            0 => {}
                            1 => edit_file(&mut bytes, edit, |_| true),
                            _ => edit_file(&mut bytes, edit, |_| random.between(0, 1) == 1),
                        },
                    }
                }
                image.insert(path.to_owned(), Some(bytes));
            }
            Node::Folder(number) => {
                let folder = &self.folders[number];
                let mut names = folder.names.certain.clone();
                for change in &folder.names.pending {
                    let made = match fate {
                        Fate::Lost | Fate::Bytes => false,
                        Fate::Whole | Fate::Names => true,
                        Fate::Torn => random.between(0, 1) == 1,
                    };
                    if made {
                        name_all(&mut names, change);
                    }
                }
                image.insert(path.to_owned(), None);
                for (name, node) in names.into_iter().filter(|(name, _)| !name.ends_with("-shm")) {
                    self.draw(node, &path.join(name), fate, random, image);
                }
            }
        }
    }
}

impl<C, P> Layers<C, P> {
    /// Takes out what is certain now.
    fn settle(&mut self, reached: usize) -> Vec<P> {
        let count = reached.saturating_sub(self.settled);
        self.settled += count;
        self.pending.drain(..count).collect()
    }
}

fn name_all(names: &mut Names, changes: &[(String, Option<Node>)]) {
    for (name, node) in changes {
        match node {
            Some(node) => drop(names.insert(name.clone(), *node)),
            None => drop(names.remove(name)),
        }
    }
}

/// Applies an edit, as far as its sectors are let through.
fn edit_file(bytes: &mut Vec<u8>, edit: &Edit, mut through: impl FnMut(usize) -> bool) {
    match edit {
        Edit::Truncate(size) => {
            if through(0) {
                bytes.resize(*size, 0);
            }
        }
        Edit::Write(offset, data) => {
            let mut at = 0;
            while at < data.len() {
                let start = offset + at;
                let length = (SECTOR - start % SECTOR).min(data.len() - at);
                if through(start / SECTOR) {
                    if bytes.len() < start + length {
                        bytes.resize(start + length, 0);
                    }
                    bytes[start..start + length].copy_from_slice(&data[at..at + length]);
                }
                at += length;
            }
        }
    }
}

/// Makes the folder what the image is of it, or of `root` elsewhere.
pub fn lay_out(image: &Image, root: &Path, at: &Path) {
    if at.exists() {
        for entry in at.read_dir().expect("read the folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.expect("clear the folder");
        }
    }
    for (path, bytes) in image {
        let path = at.join(path.strip_prefix(root).expect("below the root"));
        match bytes {
            None => std::fs::create_dir_all(path).expect("create the folder"),
            // A key is its owner's alone, also while it is made.
            Some(bytes) if path.to_string_lossy().contains(".log-key") => super::masters::write_private(&path, bytes),
            Some(bytes) => std::fs::write(path, bytes).expect("write the file"),
        }
    }
}
