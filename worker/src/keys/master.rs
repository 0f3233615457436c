//! A master key: wraps the keys of archives with AES-256-GCM, each bound to its id and its plane.
//!
//! The rule: a nonce is 96 random bits and used once; one master key wraps far fewer keys than the 2³² that this allows. The key is known by
//! the first eight bytes of its SHA-256. If we die in making a key's file, it is not there, or has no name.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use lethe_ledger::{Entropy, WrappedKey};
use lethe_stores::ArchiveKey;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::KeyError;

/// What is authenticated with a wrapped key, before its plane and its id.
const CONTEXT: &[u8] = b"lethe archive key v1";

/// 32 bytes that wrap others.
pub struct MasterKey {
    id: String,
    bytes: Zeroizing<[u8; 32]>,
}

impl MasterKey {
    /// The master key of these bytes.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { id: hex::encode(&Sha256::digest(bytes.as_slice())[..8]), bytes }
    }

    /// What it is known by: 16 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Makes a new one and writes it to a file that does not exist yet and that only its owner may read; durable when it returns.
    pub fn create(path: &Path, entropy: &dyn Entropy) -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        entropy.fill(bytes.as_mut());
        let text = Zeroizing::new(hex::encode(bytes.as_slice()) + "\n");
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if let Some(folder) = std::path::absolute(path)?.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self::new(bytes))
    }

    /// Wraps a key: nonce, encrypted key, tag.
    pub fn wrap(&self, key: &ArchiveKey, plane_id: Uuid, entropy: &dyn Entropy) -> WrappedKey {
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce);
        // Encrypted in place, so that no copy of the key is left.
        let mut sealed = key.bytes().to_vec();
        let tag = self.aead().seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(context(plane_id, key.id())),
            &mut sealed,
        );
        let tag = tag.expect("32 bytes are not too many for GCM");
        let wrapped = [nonce.as_slice(), &sealed, tag.as_ref()].concat();
        WrappedKey { id: key.id(), plane_id, wrapped, master_key_id: self.id.clone() }
    }

    /// Unwraps a key that this master key wrapped.
    pub fn unwrap(&self, wrapped: &WrappedKey) -> Result<ArchiveKey, KeyError> {
        let changed = || KeyError::Changed { key: wrapped.id, master: self.id.clone() };
        let (nonce, sealed) = wrapped.wrapped.split_at_checked(NONCE_LEN).ok_or_else(changed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| changed())?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let context = Aad::from(context(wrapped.plane_id, wrapped.id));
        let opened = self.aead().open_in_place(nonce, context, &mut sealed).map_err(|_| changed())?;
        let mut bytes = Zeroizing::new([0; 32]);
        if opened.len() != bytes.len() {
            return Err(changed());
        }
        bytes.copy_from_slice(opened);
        Ok(ArchiveKey::new(wrapped.id, bytes))
    }

    fn aead(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, self.bytes.as_slice()).expect("a key of 32 bytes"))
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MasterKey({})", self.id)
    }
}

fn context(plane_id: Uuid, key_id: Uuid) -> Vec<u8> {
    [CONTEXT, plane_id.as_bytes(), key_id.as_bytes()].concat()
}
