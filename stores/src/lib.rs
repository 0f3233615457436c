//! The world outside: knowledge stores, where planes live, archives, where they go, and channels, by which somebody is told. Drivers
//! behind the ports of `stages`.
//!
//! The rule: a driver reaches exactly what was bound to one plane, and "it is not there" is said only by a place that has shown its
//! canary. Drivers are found by the URL's scheme: `sqlite:`, `postgres:`, `chroma+http:` and, for servers that speak the store protocol,
//! `http:` for stores; `file:` and `s3:` for archives. What depends on a plane is controlled by the operator's own commands.
//!
//! If we die in a driver, every verb may be called again and the world is then as if it had been called once.

mod archive;
pub mod channels;
mod chroma;
mod command;
mod conform;
mod control;
mod http;
mod mapping;
mod pace;
mod percent;
mod postgres;
mod protocol;
mod restore;
mod secret;
mod sheet;
mod sqlite;
mod store_url;
#[cfg(test)]
mod test_support;
mod verdict;

pub use archive::{
    ArchiveCheck, ArchiveKey, Archives, BucketCheck, Encryption, LockMode, ObjectLock, PathStyle, S3Options, Shelf,
};
pub use conform::{Conformance, Conformity, Kept, Mint, Promise, Users, conform};
pub use control::{Control, Controls};
pub use mapping::Mapping;
pub use pace::Paces;
pub use restore::StoreDraft;
pub use sheet::{Cell, CellKind, Sheet};
pub use store_url::{StoreCheck, canonical_store_url, check_store, open_registered_store, open_store, shown_store_url};
