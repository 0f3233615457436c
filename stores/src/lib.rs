//! The world outside: knowledge stores, where planes live, and archives, where they go. Drivers behind the ports of `stages`.
//!
//! The rule: a driver reaches exactly what was bound to one plane, and "it is not there" is said only by a place that has shown its
//! canary. Drivers are found by the URL's scheme: `sqlite:` for stores, `file://` for archives; more schemes come behind the same ports.
//!
//! If we die in a driver, every verb may be called again and the world is then as if it had been called once.

mod archive;
mod mapping;
mod percent;
mod restore;
mod sqlite;
mod store_url;
#[cfg(test)]
mod test_support;

pub use archive::{canonical_archive_url, open_archive, prepare_archive, read_mark, write_mark};
pub use mapping::Mapping;
pub use restore::StoreDraft;
pub use store_url::{StoreCheck, canonical_store_url, check_store, open_store};
