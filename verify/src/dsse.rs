//! DSSE envelopes (v1): a payload with its type, and signatures over both.
//!
//! The rule: what is signed is the pre-authentication encoding, never the JSON around it; nothing of a payload is read before one of the
//! keys given signed it. A signature's `keyid` is the key's name and number, as a signed note writes them. It only computes.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use crate::note::{PublicKey, SigningKey};

/// The type of in-toto statements.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";

/// Why an envelope does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DsseFault {
    /// Its payload is of another type.
    #[error("its payload is `{0}`, not `{IN_TOTO}`")]
    Type(String),
    /// Its payload or a signature is no base64.
    #[error("its {0} is no base64")]
    Base64(&'static str),
    /// None of the keys signed it.
    #[error("it is signed by none of the keys given ({0}): its signatures are of {1}")]
    Unsigned(String, String),
    /// A key of the right name signed something else.
    #[error("the signature of {0} does not fit: it was changed after it was signed")]
    Changed(String),
}

/// A payload under signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// In base64.
    pub payload: String,
    /// [`IN_TOTO`].
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// At least one.
    pub signatures: Vec<Signature>,
}

/// A signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The key: `NAME+NUMBER`.
    pub keyid: String,
    /// In base64.
    pub sig: String,
}

/// What is signed: `DSSEv1`, and type and payload each after its length.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// How a key is named in an envelope.
pub fn key_id(key: &PublicKey) -> String {
    format!("{}+{}", key.name, hex::encode(key.id()))
}

impl Envelope {
    /// Signs a payload.
    pub fn sign(payload: &[u8], key: &SigningKey) -> Self {
        let sig = BASE64_STANDARD.encode(key.sign(&pae(IN_TOTO, payload)));
        Self {
            payload: BASE64_STANDARD.encode(payload),
            payload_type: IN_TOTO.to_owned(),
            signatures: vec![Signature { keyid: key_id(&key.public()), sig }],
        }
    }

    /// The payload, and which of the keys signed it.
    ///
    /// # Errors
    /// None of them did, or what one of them signed is something else.
    pub fn verified(&self, keys: &[PublicKey]) -> Result<(Vec<u8>, PublicKey), DsseFault> {
        if self.payload_type != IN_TOTO {
            return Err(DsseFault::Type(self.payload_type.clone()));
        }
        let payload = BASE64_STANDARD.decode(&self.payload).map_err(|_| DsseFault::Base64("payload"))?;
        let signed = pae(&self.payload_type, &payload);
        for signature in &self.signatures {
            let Some(key) = keys.iter().find(|key| key_id(key) == signature.keyid) else { continue };
            let bytes = BASE64_STANDARD.decode(&signature.sig).map_err(|_| DsseFault::Base64("signature"))?;
            return match key.verifies(&signed, &bytes) {
                true => Ok((payload, key.clone())),
                false => Err(DsseFault::Changed(signature.keyid.clone())),
            };
        }
        let given: Vec<String> = keys.iter().map(key_id).collect();
        let of: Vec<String> = self.signatures.iter().map(|signature| signature.keyid.clone()).collect();
        Err(DsseFault::Unsigned(given.join(", "), of.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_that_of_the_specification() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn an_envelope_is_of_who_signed_it_and_nothing_in_it_can_be_changed() {
        let key = |seed: u8| SigningKey::from_seed("example.com/log", &[seed; 32]).unwrap();
        let envelope = Envelope::sign(b"{}", &key(1));
        let keys = [key(2).public(), key(1).public()];
        assert_eq!(envelope.verified(&keys), Ok((b"{}".to_vec(), key(1).public())));
        let changed = Envelope { payload: BASE64_STANDARD.encode("{ }"), ..envelope.clone() };
        assert!(matches!(changed.verified(&keys), Err(DsseFault::Changed(_))));
        assert!(matches!(envelope.verified(&keys[..1]), Err(DsseFault::Unsigned(..))));
        let other = Envelope { payload_type: "text/plain".into(), ..envelope.clone() };
        assert!(matches!(other.verified(&keys), Err(DsseFault::Type(_))));
        assert!(matches!(Envelope { payload: "!".into(), ..envelope }.verified(&keys), Err(DsseFault::Base64(_))));
    }
}
