//! Signatures over destruction plans: SSHSIG, as `ssh-keygen -Y sign` makes and `ssh-keygen -Y verify` checks them.
//!
//! The rule: what was signed is the plan's text to the byte, under our own namespace, by the very key that is registered. Nothing here
//! holds a private key: who approves signs with OpenSSH, whose agent and hardware keys so serve too. It only computes, so nothing happens
//! if we die in it. Source: OpenSSH's PROTOCOL.sshsig.

use ssh_key::{Algorithm, HashAlg, PublicKey, SshSig};

/// What a signature is for; one made for anything else is refused.
pub const NAMESPACE: &str = "lethe-approval@v1";

/// A public key that may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// In OpenSSH's format, without comment.
    pub openssh: String,
    /// `SHA256:…`.
    pub fingerprint: String,
}

impl std::str::FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("PRIVATE KEY") {
            return Err(
                "this is a private key, which belongs to nobody but its owner: give the public one (the file that ends in .pub)"
                    .into(),
            );
        }
        let kind = text.split_whitespace().next().unwrap_or_default();
        let other = ["ssh-", "ecdsa-", "sk-"].iter().any(|begins| kind.starts_with(begins)) && !kind.contains("ssh-ed25519");
        if other {
            return Err(format!("this is a key for {kind}: make one with `ssh-keygen -t ed25519` (or ed25519-sk)"));
        }
        let mut key = PublicKey::from_openssh(text.trim())
            .map_err(|error| format!("this is no public key in OpenSSH's format, one line `ssh-ed25519 AAAA…`: {error}"))?;
        if !matches!(key.algorithm(), Algorithm::Ed25519 | Algorithm::SkEd25519) {
            return Err(format!("this is a key for {}, which signs no plans", key.algorithm()));
        }
        key.set_comment("");
        let openssh = key.to_openssh().map_err(|error| format!("write the public key: {error}"))?;
        Ok(Self { openssh: openssh.trim().to_owned(), fingerprint: key.fingerprint(HashAlg::Sha256).to_string() })
    }
}

/// The fingerprint of the key that a signature says it is of.
///
/// # Errors
/// What is wrong with it, where it is no SSHSIG.
pub fn signer(signature: &str) -> Result<String, String> {
    let signature = read(signature)?;
    Ok(PublicKey::from(signature.public_key().clone()).fingerprint(HashAlg::Sha256).to_string())
}

/// Whether the holder of a key signed this text.
///
/// # Errors
/// Why not.
pub fn verify(public_key: &str, text: &str, signature: &str) -> Result<(), String> {
    let signature = read(signature)?;
    let key = PublicKey::from_openssh(public_key).map_err(|error| format!("read the registered key: {error}"))?;
    key.verify(NAMESPACE, text.as_bytes(), &signature).map_err(|error| match error {
        ssh_key::Error::Namespace => {
            format!("it was made for `{}`; sign with `ssh-keygen -Y sign -n {NAMESPACE}`", signature.namespace())
        }
        ssh_key::Error::PublicKey => "it is of another key than the registered one".into(),
        _ => "it does not fit this text: the plan has changed since, or another text was signed".into(),
    })
}

fn read(signature: &str) -> Result<SshSig, String> {
    SshSig::from_pem(signature.trim_start()).map_err(|error| {
        format!(
            "this is no SSH signature (it begins with -----BEGIN SSH SIGNATURE-----, as `ssh-keygen -Y sign` writes it): {error}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by `ssh-keygen -t ed25519` and `ssh-keygen -Y sign -n lethe-approval@v1` over `the plan\n`.
    const KEY: &str = include_str!("../../tests/golden/signature/approver.pub");
    const SIGNATURE: &str = include_str!("../../tests/golden/signature/approver.sig");
    const ELSEWHERE: &str = include_str!("../../tests/golden/signature/approver-file.sig");

    #[test]
    fn what_openssh_signed_is_verified() {
        let key: Key = KEY.parse().unwrap();
        assert!(key.fingerprint.starts_with("SHA256:") && !key.openssh.contains("somebody@"), "{key:?}");
        assert_eq!(signer(SIGNATURE).unwrap(), key.fingerprint);
        verify(&key.openssh, "the plan\n", SIGNATURE).unwrap();
        let said = |text, signature| verify(&key.openssh, text, signature).unwrap_err();
        assert!(said("the plam\n", SIGNATURE).contains("does not fit"));
        assert!(said("the plan\n", ELSEWHERE).contains("was made for `file`"), "{}", said("the plan\n", ELSEWHERE));
        let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
        assert!(verify(other, "the plan\n", SIGNATURE).unwrap_err().contains("another key"));
    }

    #[test]
    fn what_is_no_key_or_signature_is_named() {
        let wrong = |text: &str| text.parse::<Key>().unwrap_err();
        assert!(wrong("-----BEGIN OPENSSH PRIVATE KEY-----").contains("private key"));
        assert!(wrong("hello").contains("no public key"));
        let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHwf2HMM5TRXvo2SQJjsNkiDD5KqiiNjrGVv3UUh+mMT5RHxiRtOnlqvjhQtBq0VpmpCV/PwUdhOig4vkbqAcEc=";
        assert!(wrong(ecdsa).contains("ssh-keygen -t ed25519"), "{}", wrong(ecdsa));
        for garbage in ["", "signed, Bob", "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"] {
            assert!(signer(garbage).unwrap_err().contains("no SSH signature"));
        }
    }
}
