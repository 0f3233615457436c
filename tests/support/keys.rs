//! Approvers' keys, made and used by OpenSSH as people make and use them.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// A key pair in a folder of its own.
pub struct Key {
    folder: TempDir,
}

fn ssh_keygen(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new("ssh-keygen")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ssh-keygen: tests/servers installs it");
    child.stdin.take().expect("its input").write_all(input).expect("write to ssh-keygen");
    child.wait_with_output().expect("ssh-keygen ends")
}

impl Key {
    /// A new one.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key");
        let made = ssh_keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "of a test", "-f", &file.display().to_string()], b"");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { folder }
    }

    /// The private part's file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    /// The public part's file.
    pub fn public_file(&self) -> PathBuf {
        self.folder.path().join("key.pub")
    }

    /// The public part.
    pub fn public(&self) -> String {
        std::fs::read_to_string(self.public_file()).expect("read the public key")
    }

    /// A signature over a text.
    pub fn sign(&self, text: &str) -> String {
        let signed =
            ssh_keygen(&["-Y", "sign", "-n", "lethe-approval@v1", "-f", &self.file().display().to_string()], text.as_bytes());
        assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
        String::from_utf8(signed.stdout).expect("text")
    }

    /// Whether `ssh-keygen -Y verify` takes a signature over a text for this key's.
    pub fn verifies(&self, text: &str, signature: &str) -> bool {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).expect("write");
            path.display().to_string()
        };
        let public = self.public();
        let allowed = write("allowed_signers", &format!("user:bob {public}"));
        let signature = write("signature", signature);
        let arguments = ["-Y", "verify", "-f", &allowed, "-I", "user:bob", "-n", "lethe-approval@v1", "-s", &signature];
        ssh_keygen(&arguments, text.as_bytes()).status.success()
    }

    /// Where everything of it lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
