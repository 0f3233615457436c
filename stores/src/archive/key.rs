//! The key under which one plane's archive is encrypted, and what Parquet is told of it.
//!
//! The rule: the key is in memory only, is shown nowhere, and stands in no object, not even wrapped: whoever has a copy of the archive has
//! nothing that leads to it. What a part says of its key is the key's id. Each part is bound to its place, so that one cannot be
//! passed off as another. What is held here is wiped when it is dropped; what Parquet and AES make of it is freed, and not wiped.
//!
//! If we die with a key in memory, nothing of it was written.

use std::sync::Arc;

use lethe_stages::ports::PortError;
use parquet::encryption::{decrypt::FileDecryptionProperties, encrypt::FileEncryptionProperties};
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

/// 32 bytes for AES-256-GCM, with their id.
#[derive(Clone)]
pub struct ArchiveKey {
    id: Uuid,
    bytes: Arc<Zeroizing<[u8; 32]>>,
}

impl ArchiveKey {
    /// The key of this id.
    pub fn new(id: Uuid, bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { id, bytes: Arc::new(bytes) }
    }

    /// Its id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The key itself, to be wrapped or handed to a reader.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// How parts are encrypted under it, as a manifest says it.
    pub(super) fn scheme(&self) -> String {
        format!("AES_GCM_V1, Parquet modular encryption with encrypted footers, 256 bit, key {}", self.id)
    }

    /// For a part at `place`.
    pub(super) fn encrypts(&self, place: &Place) -> Result<Arc<FileEncryptionProperties>, PortError> {
        let properties = FileEncryptionProperties::builder(self.bytes.to_vec())
            .with_footer_key_metadata(self.material())
            .with_aad_prefix(place.0.clone().into_bytes())
            .with_aad_prefix_storage(true);
        properties.build().map_err(|error| PortError::Permanent(format!("encrypt {}: {error}", place.0)))
    }

    /// For a part that must be the one of `place`, whatever place it names itself.
    pub(super) fn decrypts(&self, place: &Place) -> Result<Arc<FileDecryptionProperties>, String> {
        let properties = FileDecryptionProperties::builder(self.bytes.to_vec()).with_aad_prefix(place.0.clone().into_bytes());
        properties.build().map_err(|error| error.to_string())
    }

    /// What readers with a KMS find in a part's footer, in the form that Arrow knows. Where others put the wrapped key, this has its id.
    fn material(&self) -> Vec<u8> {
        let material = json!({
            "keyMaterialType": "PKMT1", "internalStorage": true, "isFooterKey": true, "kmsInstanceID": "lethe",
            "kmsInstanceURL": "DEFAULT", "masterKeyID": self.id, "wrappedDEK": self.id, "doubleWrapping": false,
        });
        material.to_string().into_bytes()
    }
}

impl std::fmt::Debug for ArchiveKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ArchiveKey({})", self.id)
    }
}

/// Where a part belongs: what is authenticated with every byte of it.
pub(super) struct Place(String);

impl Place {
    pub(super) fn of(plane_id: Uuid, key: &str) -> Self {
        Self(format!("{plane_id}/{key}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_not_shown_and_not_in_what_a_part_says_of_it() {
        let key = ArchiveKey::new(Uuid::from_u128(7), Zeroizing::new([0xab; 32]));
        assert_eq!(format!("{key:?}"), format!("ArchiveKey({})", Uuid::from_u128(7)));
        let material = String::from_utf8(key.material()).unwrap();
        assert!(
            material.contains(&key.id().to_string()) && !material.contains("abab") && !material.contains("q6ur"),
            "{material}"
        );
        assert!(!key.scheme().contains("abab"));
    }
}
