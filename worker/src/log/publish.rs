//! Publishing the log: the tiles and the checkpoint, to a folder or a bucket.
//!
//! The rule: who publishes holds a lease; the checkpoint that is outside is read first, and this ledger must lead from it to its own. Tiles are
//! written once; one that is there and is other bytes is a fork. If we die in it, what is there is right, and the next who publishes goes on.

use chrono::TimeDelta;
use futures::{StreamExt, TryStreamExt, stream};
use std::sync::atomic::Ordering;

use lethe_ledger::{CheckpointRow, EventType, Fault, ToPublish, Tx};
use lethe_stages::{
    crash::{CrashPoint, reached},
    ports::PortError,
};
use lethe_stores::Shelf;
use lethe_verify::{
    note::{Checkpoint, Note},
    tile::{self, Tile, WIDTH},
};
use serde_json::{Value as Json, json};

use super::KnowledgeLifecycleManager;

/// Where a log's newest checkpoint lies.
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// How long one who publishes has to say that it is alive.
const LEASE: TimeDelta = TimeDelta::seconds(60);
/// Leaves that are published under one lease.
const LEAVES_MAX: u64 = 1 << 16;
/// Tiles that are written at a time.
const AT_ONCE: usize = 8;

/// The way on for a ledger whose past is another one than what is published.
const ELSEWHERE: &str = "; if this ledger is the one to go on with: a new key under another name (`lethe log init-key`), another log.publish, \
    then `lethe log adopt-key --reason …`";

/// What the place says to sealing.
pub(super) enum Outside {
    /// It leads here, or there is none.
    Leads,
    /// It leads elsewhere.
    Forked(String),
    /// It has not answered yet.
    Unknown,
}

/// What publishing did.
pub(super) enum Published {
    /// So many leaves.
    Leaves(u64),
    /// What is outside is not what this ledger leads to.
    Forked(String),
}

/// What kept a round from being finished.
enum Trouble {
    Fault(Fault),
    /// The place is away; it is tried again.
    Away(PortError),
    Forked(String),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Trouble::Fault(fault)
    }
}

impl From<PortError> for Trouble {
    fn from(error: PortError) -> Self {
        Trouble::Away(error)
    }
}

impl KnowledgeLifecycleManager {
    /// Publishes what is sealed and not outside yet. A place that is away is tried again the next time.
    pub(super) async fn publish(&self) -> Result<Published, Fault> {
        let Some(url) = self.log.published_at() else { return Ok(Published::Leaves(0)) };
        let state = self.ledger.read(async |tx: &mut Tx| tx.log().await).await?;
        if state.published_size == state.size {
            return Ok(Published::Leaves(0));
        }
        let mut leaves = 0;
        let troubled = loop {
            let noted = (leaves == 0).then_some(state.published_size);
            match self.publish_round(url, noted).await {
                Ok(0) => return Ok(Published::Leaves(leaves)),
                Ok(more) => leaves += more,
                Err(trouble) => break trouble,
            }
        };
        // Whoever tries next need not wait for us.
        let owner = &self.log.publisher;
        self.ledger.transact(async |tx: &mut Tx| tx.let_others_publish(owner).await).await?.into_inner();
        match troubled {
            Trouble::Forked(why) => Ok(Published::Forked(why)),
            Trouble::Away(error) => {
                tracing::warn!(%error, url, "publish the log: tried again later");
                Ok(Published::Leaves(leaves))
            }
            Trouble::Fault(fault) => Err(fault),
        }
    }

    /// Whether this ledger leads from what is outside to itself. A place that is away is believed to be as it was, if this process has seen
    /// it; otherwise nothing may be signed before it answers.
    pub(super) async fn outside_allows(&self) -> Result<Outside, Fault> {
        let Some(url) = self.log.published_at() else { return Ok(Outside::Leads) };
        let outside = match self.world.shelf(url) {
            Ok(shelf) => self.outside(&shelf).await,
            Err(error) => Err(error.into()),
        };
        match outside {
            Ok(_) => {
                self.log.seen_outside.store(true, Ordering::SeqCst);
                Ok(Outside::Leads)
            }
            Err(Trouble::Forked(why)) => Ok(Outside::Forked(why)),
            Err(Trouble::Fault(fault)) => Err(fault),
            Err(Trouble::Away(error)) => {
                tracing::warn!(%error, url, "read the published checkpoint");
                Ok(if self.log.seen_outside.load(Ordering::SeqCst) { Outside::Leads } else { Outside::Unknown })
            }
        }
    }

    /// The size of the checkpoint that is outside; 0 where there is none. This ledger's tree begins with its tree.
    async fn outside(&self, shelf: &Shelf) -> Result<u64, Trouble> {
        let Some(bytes) = shelf.read(CHECKPOINT).await? else { return Ok(0) };
        let forked = |why: String| Trouble::Forked(format!("the checkpoint that is published {why}"));
        let text = String::from_utf8(bytes).map_err(|_| forked("is no text".into()))?;
        let note = Note::read(&text)
            .map_err(|error| forked(format!("cannot be read: {error}; move it away, and it is published anew")))?;
        let found = Checkpoint::read(&note.text).map_err(|error| forked(format!("cannot be read: {error}")))?;
        let why = self
            .ledger
            .read(async |tx: &mut Tx| {
                let keys = tx.log_keys_in_force(found.size).await?;
                if let Err(error) = note.verified_by(&keys) {
                    return Ok(Some(format!("is not of this log: {error}")));
                }
                let size = tx.log().await?.size;
                if found.size > size {
                    let why =
                        format!("has {} leaves, this ledger's log has {size}: the ledger was rolled back{ELSEWHERE}", found.size);
                    return Ok(Some(why));
                }
                let here = tx.root_at(found.size).await?;
                Ok::<_, Fault>((here != found.root).then(|| {
                    format!("has another root at {} leaves than this ledger: the log was forked{ELSEWHERE}", found.size)
                }))
            })
            .await?;
        match why {
            None => Ok(found.size),
            Some(why) => Err(forked(why)),
        }
    }

    /// Compares everything that is outside with this ledger: what was compared, or the first place that is not as it must be.
    pub(crate) async fn compare_published(&self) -> Result<Json, Fault> {
        let Some(url) = self.log.published_at() else { return Ok(Json::Null) };
        let noted = self.ledger.read(async |tx: &mut Tx| tx.log().await).await?.published_size;
        let wrong = |place: &str, fault: String| Ok(json!({"url": url, "place": place, "fault": fault}));
        let compared = async {
            let shelf = self.world.shelf(url)?;
            let size = self.outside(&shelf).await?;
            if size < noted {
                let why = format!(
                    "the checkpoint that is published has {size} leaves, and {noted} had been published: it was rolled back"
                );
                return Err(Trouble::Forked(why));
            }
            let tiles = Tile::between(0, size);
            for some in tiles.chunks(WIDTH as usize) {
                let files = stream::iter(self.files(some, size).await?).map(|(path, bytes)| {
                    let shelf = &shelf;
                    async move {
                        match shelf.read(&path).await? {
                            Some(there) if there == bytes => Ok(()),
                            Some(_) => Err(Trouble::Forked(format!("{path} was changed"))),
                            None => Err(Trouble::Forked(format!("{path} is gone"))),
                        }
                    }
                });
                files.buffered(AT_ONCE).try_collect::<Vec<()>>().await?;
            }
            Ok((size, tiles.len()))
        };
        match compared.await {
            Ok((size, tiles)) => Ok(json!({"url": url, "size": size, "files": tiles})),
            Err(Trouble::Forked(why)) => wrong("what is published", why),
            Err(Trouble::Away(error)) => wrong("what is published", format!("it cannot be read: {error}")),
            // What the ledger itself lacks is named by verifying it.
            Err(Trouble::Fault(fault @ Fault::LogBroken { .. })) => wrong("what is published", fault.to_string()),
            Err(Trouble::Fault(fault)) => Err(fault),
        }
    }

    /// One checkpoint with what it needs. Answers how many leaves it adds; 0: nothing is left, or somebody else publishes.
    async fn publish_round(&self, url: &str, noted: Option<u64>) -> Result<u64, Trouble> {
        let owner = &self.log.publisher;
        let mine = self.ledger.transact(async |tx: &mut Tx| tx.lease_publishing(owner, LEASE).await).await?.into_inner();
        if !mine {
            return Ok(0);
        }
        let shelf = self.world.shelf(url)?;
        let from = self.outside(&shelf).await?;
        if let Some(noted) = noted.filter(|noted| from < *noted) {
            tracing::error!(
                url,
                found = from,
                published = noted,
                "what had been published of the log was gone or older: it is published anew"
            );
            let work = async |tx: &mut Tx| {
                let mut entry = super::log_entry(EventType::LogRepublished);
                entry.evidence = json!({"found": from, "published": noted});
                tx.append(entry).await.map(drop)
            };
            self.ledger.transact(work).await?.into_inner();
        }
        let next = self.ledger.read(async |tx: &mut Tx| tx.to_publish(from, LEAVES_MAX).await).await?;
        let Some(ToPublish { checkpoint, tiles }) = next else {
            // It is all there: whoever wrote it died before it was noted.
            self.note_published(from).await?;
            return Ok(0);
        };
        for some in tiles.chunks(WIDTH as usize) {
            let files = self.files(some, checkpoint.size).await?;
            let at = self.ledger.now();
            let written = stream::iter(files).map(|(path, bytes)| {
                let shelf = &shelf;
                async move {
                    let there = shelf.put_once(&path, bytes, at).await?;
                    reached(CrashPoint::LogTilePublished);
                    match there {
                        None => Ok(()),
                        Some(_) => Err(Trouble::Forked(format!(
                            "the tile {path} that is published is not this log's: it was changed or forked"
                        ))),
                    }
                }
            });
            written.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        }
        if self.publish_checkpoint(&shelf, &checkpoint).await? {
            // A tile that is whole now is all that anybody reads of it.
            for whole in tiles.iter().filter(|tile| tile.width == WIDTH && tile.was_begun(from)) {
                shelf.clear(&format!("{}.p", whole.path())).await;
            }
        }
        Ok(checkpoint.size - from)
    }

    async fn publish_checkpoint(&self, shelf: &Shelf, checkpoint: &CheckpointRow) -> Result<bool, Trouble> {
        // Once more: who was stopped for long must not put an older checkpoint over a newer one.
        let owner = &self.log.publisher;
        let mine = self.ledger.transact(async |tx: &mut Tx| tx.lease_publishing(owner, LEASE).await).await?.into_inner();
        if !mine {
            return Ok(false);
        }
        shelf.replace(CHECKPOINT, checkpoint.note.clone().into_bytes()).await?;
        reached(CrashPoint::LogCheckpointPublished);
        self.note_published(checkpoint.size).await?;
        Ok(true)
    }

    async fn note_published(&self, size: u64) -> Result<(), Fault> {
        let owner = &self.log.publisher;
        self.ledger.transact(async |tx: &mut Tx| tx.published(owner, size).await).await?.into_inner();
        Ok(())
    }

    /// The bytes of tiles and bundles, by their paths.
    async fn files(&self, tiles: &[Tile], size: u64) -> Result<Vec<(String, Vec<u8>)>, Fault> {
        self.ledger
            .read(async |tx: &mut Tx| {
                let mut files = Vec::with_capacity(tiles.len());
                for tile in tiles {
                    files.push((tile.path(), bytes_of(tx, tile, size).await?));
                }
                Ok(files)
            })
            .await
    }
}

/// What a tile or bundle holds.
pub(crate) async fn bytes_of(tx: &mut Tx, tile: &Tile, size: u64) -> Result<Vec<u8>, Fault> {
    let short =
        || Fault::LogBroken { what: tile.path(), why: format!("the ledger holds less of it than a tree of {size} leaves has") };
    match tile.level {
        Some(level) => {
            let hashes = tx.tile(level, tile.index).await?;
            Ok(tile::to_bytes(hashes.get(..tile.width as usize).ok_or_else(short)?))
        }
        None => {
            let start = tile.index * WIDTH;
            let leaves = tx.leaves(start, start + tile.width).await?;
            if leaves.len() as u64 != tile.width {
                return Err(short());
            }
            let entries = leaves.iter().map(|leaf| leaf.leaf().map(|leaf| leaf.bytes())).collect::<Result<Vec<_>, _>>()?;
            Ok(tile::bundle(entries.iter().map(<[u8; lethe_verify::leaf::LENGTH]>::as_slice)))
        }
    }
}
