//! Signed notes and checkpoints, as C2SP signed-note and tlog-checkpoint have them: a text, and lines of signatures over it.
//!
//! The rule: a note is signed by who holds a key of the log's own name; signatures by others (witnesses) are kept and not counted.
//! It only computes.

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use crate::merkle::Hash;

/// What stands before a key's bytes: Ed25519.
const ED25519_TYPE: u8 = 1;
const DASH: char = '\u{2014}';

/// Why a note, checkpoint or key is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteFault {
    /// The text is no key.
    #[error("this is no public key of a log: it is one line, NAME+HASH+KEY")]
    Key,
    /// The text is no private key.
    #[error("this is no private key of a log: it is one line, PRIVATE+KEY+NAME+HASH+KEY")]
    PrivateKey,
    /// The text is no signed note.
    #[error("this is no signed note: a text, an empty line, and lines of signatures that begin with a dash")]
    Note,
    /// The text is no checkpoint.
    #[error("this is no checkpoint: its lines are the log's origin, its size and its root")]
    Checkpoint,
    /// None of the keys signed it.
    #[error("it is signed by none of the keys given ({0}): its signatures are of {1}")]
    Unsigned(String, String),
    /// A key of the right name and number signed something else.
    #[error("the signature of {0} does not fit the text: it was changed after it was signed")]
    Changed(String),
    /// It is of another log.
    #[error("it is of the log {found}, not of {wanted}")]
    Origin {
        /// The log that it names.
        found: String,
        /// The one that was expected.
        wanted: String,
    },
}

/// A public key of a log, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// The log's name.
    pub name: String,
    /// The Ed25519 key.
    pub bytes: [u8; 32],
}

impl PublicKey {
    /// The number by which signatures name it.
    pub fn id(&self) -> [u8; 4] {
        let mut hash = Sha256::new();
        hash.update(self.name.as_bytes());
        hash.update([b'\n', ED25519_TYPE]);
        hash.update(self.bytes);
        let hash: Hash = hash.finalize().into();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// Whether it signed this.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.bytes).verify(message, signature).is_ok()
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id()), typed(&self.bytes))
    }
}

impl std::str::FromStr for PublicKey {
    type Err = NoteFault;
    fn from_str(text: &str) -> Result<Self, NoteFault> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else { return Err(NoteFault::Key) };
        let key = Self { name: name.to_owned(), bytes: untyped(key).ok_or(NoteFault::Key)? };
        if !is_name(name) || id != hex::encode(key.id()) {
            return Err(NoteFault::Key);
        }
        Ok(key)
    }
}

fn typed(key: &[u8; 32]) -> String {
    BASE64_STANDARD.encode([[ED25519_TYPE].as_slice(), key].concat())
}

fn untyped(text: &str) -> Option<[u8; 32]> {
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    let (kind, key) = bytes.split_first()?;
    if *kind == ED25519_TYPE { key.try_into().ok() } else { None }
}

/// Whether a log may have this name: not empty, no white space, no plus.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|character: char| character.is_whitespace() || character == '+')
}

/// A key that signs.
pub struct SigningKey {
    name: String,
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

impl SigningKey {
    /// The key that follows from 32 secret bytes, under a log's name.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteFault> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| NoteFault::PrivateKey)?;
        if is_name(name) { Ok(Self { name: name.to_owned(), pair }) } else { Err(NoteFault::PrivateKey) }
    }

    /// Out of the form that [`Self::write`] gives: `PRIVATE+KEY+NAME+HASH+KEY`.
    pub fn read(text: &str) -> Result<Self, NoteFault> {
        let mut parts = text.trim().strip_prefix("PRIVATE+KEY+").ok_or(NoteFault::PrivateKey)?.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteFault::PrivateKey);
        };
        let key = Self::from_seed(name, &untyped(key).ok_or(NoteFault::PrivateKey)?)?;
        if id == hex::encode(key.public().id()) { Ok(key) } else { Err(NoteFault::PrivateKey) }
    }

    /// The text of a private key, as Go's `note` package writes it.
    pub fn write(name: &str, seed: &[u8; 32]) -> Result<String, NoteFault> {
        let id = hex::encode(Self::from_seed(name, seed)?.public().id());
        Ok(format!("PRIVATE+KEY+{name}+{id}+{}", typed(seed)))
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        let bytes = self.pair.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes");
        PublicKey { name: self.name.clone(), bytes }
    }

    /// Signs bytes: 64 bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    /// The line of a signature over a note's text.
    pub fn line(&self, text: &str) -> String {
        let signed = [self.public().id().as_slice(), &self.sign(text.as_bytes())].concat();
        format!("{DASH} {} {}\n", self.name, BASE64_STANDARD.encode(signed))
    }
}

/// A note: its text, and the signatures as (name, key's number, signature).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What is signed; ends with a newline.
    pub text: String,
    /// By whom.
    pub signatures: Vec<(String, [u8; 4], Vec<u8>)>,
}

impl Note {
    /// Reads a note. Nothing is verified.
    pub fn read(note: &str) -> Result<Self, NoteFault> {
        let end = note.rfind("\n\n").ok_or(NoteFault::Note)?;
        let (text, lines) = (&note[..=end], &note[end + 2..]);
        if lines.is_empty() || !lines.ends_with('\n') || text.contains(|c: char| c.is_control() && c != '\n') {
            return Err(NoteFault::Note);
        }
        let signature = |line: &str| {
            let (name, signed) = line.strip_prefix(DASH)?.strip_prefix(' ')?.split_once(' ')?;
            let signed = BASE64_STANDARD.decode(signed).ok()?;
            let (id, signature) = signed.split_first_chunk::<4>()?;
            (is_name(name) && !signature.is_empty()).then(|| (name.to_owned(), *id, signature.to_vec()))
        };
        let signatures = lines.lines().map(signature).collect::<Option<Vec<_>>>().ok_or(NoteFault::Note)?;
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// Which of the keys signed it: at least one.
    ///
    /// # Errors
    /// None of them did, or what one of them signed is another text.
    pub fn verified_by(&self, keys: &[PublicKey]) -> Result<PublicKey, NoteFault> {
        for key in keys {
            let of_key = self.signatures.iter().find(|(name, id, _)| *name == key.name && *id == key.id());
            if let Some((_, _, signature)) = of_key {
                return match key.verifies(self.text.as_bytes(), signature) {
                    true => Ok(key.clone()),
                    false => Err(NoteFault::Changed(key.to_string())),
                };
            }
        }
        let of = self.signatures.iter().map(|(name, id, _)| format!("{name}+{}", hex::encode(id)));
        let given: Vec<String> = keys.iter().map(ToString::to_string).collect();
        Err(NoteFault::Unsigned(given.join(", "), of.collect::<Vec<_>>().join(", ")))
    }
}

/// What a log's signed note says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// Leaves of its tree.
    pub size: u64,
    /// The tree's hash.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64_STANDARD.encode(self.root))
    }

    /// The signed note, under one key or several.
    pub fn signed<'a>(&self, keys: impl IntoIterator<Item = &'a SigningKey>) -> String {
        let text = self.text();
        let lines: String = keys.into_iter().map(|key| key.line(&text)).collect();
        format!("{text}\n{lines}")
    }

    /// Reads a note's text.
    pub fn read(text: &str) -> Result<Self, NoteFault> {
        let mut lines = text.lines();
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(NoteFault::Checkpoint);
        };
        let number = size.parse::<u64>().ok().filter(|number| number.to_string() == size).ok_or(NoteFault::Checkpoint)?;
        let root = BASE64_STANDARD.decode(root).ok().and_then(|root| root.try_into().ok()).ok_or(NoteFault::Checkpoint)?;
        if origin.is_empty() {
            return Err(NoteFault::Checkpoint);
        }
        Ok(Self { origin: origin.to_owned(), size: number, root })
    }

    /// Reads a signed checkpoint and verifies it: one of the keys signed it, and it is of the log that the key names.
    pub fn verified(note: &str, keys: &[PublicKey]) -> Result<(Self, PublicKey), NoteFault> {
        let note = Note::read(note)?;
        let key = note.verified_by(keys)?;
        let checkpoint = Self::read(&note.text)?;
        if checkpoint.origin != key.name {
            return Err(NoteFault::Origin { found: checkpoint.origin, wanted: key.name });
        }
        Ok((checkpoint, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed("example.com/log", &[seed; 32]).unwrap()
    }

    #[test]
    fn keys_come_back_from_their_text() {
        let text = SigningKey::write("example.com/log", &[7; 32]).unwrap();
        let read = SigningKey::read(&(text.clone() + "\n")).unwrap();
        assert_eq!(read.public(), key(7).public());
        let public = read.public().to_string();
        assert_eq!(public.parse::<PublicKey>().unwrap(), read.public());
        assert_eq!(format!("{read:?}"), format!("SigningKey({public})"));
        for wrong in ["", "a+b+c", &text[12..], &public.replace("log", "lag"), &public[..public.len() - 2]] {
            assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
        }
        assert!(SigningKey::read(&public).is_err() && SigningKey::from_seed("a b", &[7; 32]).is_err());
        // The example of the signed-note specification.
        let peter: PublicKey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse().unwrap();
        let note = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\
            \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        assert_eq!(Note::read(note).unwrap().verified_by(std::slice::from_ref(&peter)), Ok(peter));
    }

    #[test]
    fn a_checkpoint_is_of_who_signed_it_and_nothing_in_it_can_be_changed() {
        let checkpoint = Checkpoint { origin: "example.com/log".into(), size: 42, root: [9; 32] };
        let note = checkpoint.signed([&key(1), &key(2)]);
        for signer in [1, 2] {
            let read = Checkpoint::verified(&note, &[key(9).public(), key(signer).public()]).unwrap();
            assert_eq!(read, (checkpoint.clone(), key(signer).public()));
        }
        let by_other = Checkpoint::verified(&note, &[key(3).public()]).unwrap_err();
        assert!(matches!(by_other, NoteFault::Unsigned(..)), "{by_other}");
        let changed = Checkpoint::verified(&note.replace("42", "43"), &[key(1).public()]).unwrap_err();
        assert!(matches!(changed, NoteFault::Changed(_)), "{changed}");
        let elsewhere = Checkpoint { origin: "example.com/other".into(), ..checkpoint }.signed([&key(1)]);
        assert!(matches!(Checkpoint::verified(&elsewhere, &[key(1).public()]), Err(NoteFault::Origin { .. })));
        for garbage in ["", "a\n", "a\n\nb\n", "a\n\n\u{2014} x AAAA\n", "\n\n\n"] {
            assert!(Checkpoint::verified(garbage, &[key(1).public()]).is_err(), "{garbage:?}");
        }
        for text in ["o\n042\nAAAA\n", "o\n4\nAAAA\n", "o\n-1\n\n", ""] {
            assert_eq!(Checkpoint::read(text), Err(NoteFault::Checkpoint), "{text:?}");
        }
    }
}
