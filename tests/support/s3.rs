//! A bucket of its own for each test, on the real server that `tests/servers` starts.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation},
    operation::list_object_versions::ListObjectVersionsOutput,
    primitives::ByteStream,
    types::{
        BucketVersioningStatus, Delete, ObjectIdentifier, ObjectLockLegalHold, ObjectLockLegalHoldStatus, VersioningConfiguration,
    },
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use lethe_stores::{Archives, S3Options};
use tempfile::TempDir;

/// Where the server is and as whom to use it.
#[derive(Debug, Clone)]
pub struct Server {
    pub endpoint: String,
    pub region: String,
    pub access_key: String,
    pub secret_key: String,
}

impl Server {
    /// As the environment says; without it the test fails.
    pub fn from_environment() -> Self {
        let read = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| {
                panic!("{name} is not set: this test needs the S3 server that `tests/run` starts, or `tests/servers up` by hand")
            })
        };
        Self {
            endpoint: read("LETHE_TEST_S3_ENDPOINT"),
            region: std::env::var("LETHE_TEST_S3_REGION").unwrap_or_else(|_| "us-east-1".into()),
            access_key: read("LETHE_TEST_S3_ACCESS_KEY"),
            secret_key: read("LETHE_TEST_S3_SECRET_KEY"),
        }
    }

    pub fn client(&self) -> Client {
        let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .region(Region::new(self.region.clone()))
            .endpoint_url(&self.endpoint)
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .credentials_provider(Credentials::new(&self.access_key, &self.secret_key, None, None, "test"));
        Client::from_conf(config.build())
    }
}

/// What a new bucket does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Versioned,
    /// Versioned, then suspended.
    Suspended,
    /// Versioned, and its objects can be locked.
    Lockable,
}

/// A bucket that is emptied and removed with the test.
pub struct Bucket {
    pub server: Server,
    pub client: Client,
    pub name: String,
    pub kind: Kind,
    files: TempDir,
}

impl Bucket {
    pub async fn new(kind: Kind) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let server = Server::from_environment();
        let client = server.client();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_millis();
        let name = format!("lethe-{}-{}-{since}", std::process::id(), NUMBER.fetch_add(1, Ordering::SeqCst));
        let create = client.create_bucket().bucket(&name).object_lock_enabled_for_bucket(kind == Kind::Lockable);
        create.send().await.expect("create a bucket");
        let bucket = Self { server, client, name, kind, files: tempfile::tempdir().expect("a folder") };
        match kind {
            Kind::Versioned => bucket.versioning(BucketVersioningStatus::Enabled).await,
            Kind::Suspended => {
                bucket.versioning(BucketVersioningStatus::Enabled).await;
                bucket.versioning(BucketVersioningStatus::Suspended).await;
            }
            Kind::Plain | Kind::Lockable => {}
        }
        bucket
    }

    pub async fn versioning(&self, status: BucketVersioningStatus) {
        let configuration = VersioningConfiguration::builder().status(status).build();
        let request = self.client.put_bucket_versioning().bucket(&self.name).versioning_configuration(configuration);
        request.send().await.expect("set versioning");
    }

    /// The URL of an archive in it.
    pub fn url(&self) -> String {
        format!("s3://{}/cold/archive", self.name)
    }

    /// A credentials file as AWS has them.
    pub fn credentials(&self, secret_key: &str) -> PathBuf {
        let path = self.files.path().join(format!("credentials-{}", secret_key.len()));
        let text = format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {secret_key}\n", self.server.access_key);
        std::fs::write(&path, text).expect("write credentials");
        path
    }

    pub fn options(&self) -> S3Options {
        S3Options {
            endpoint: Some(self.server.endpoint.clone()),
            region: Some(self.server.region.clone()),
            credentials_file: Some(self.credentials(&self.server.secret_key)),
            ..S3Options::default()
        }
    }

    /// Archives on this server.
    pub fn archives(&self) -> Archives {
        Archives::new(self.options(), Default::default())
    }

    /// The section of a configuration that leads to this server.
    pub fn config(&self) -> String {
        format!(
            "[archive.s3]\nendpoint = \"{}\"\nregion = \"{}\"\ncredentials_file = \"{}\"\n",
            self.server.endpoint,
            self.server.region,
            self.credentials(&self.server.secret_key).display()
        )
    }

    pub async fn put(&self, key: &str, bytes: &[u8]) {
        let request = self.client.put_object().bucket(&self.name).key(key).body(ByteStream::from(bytes.to_vec()));
        request.send().await.expect("put");
    }

    pub async fn get(&self, key: &str) -> Vec<u8> {
        let answer = self.client.get_object().bucket(&self.name).key(key).send().await.expect("get");
        answer.body.collect().await.expect("a body").to_vec()
    }

    /// Everything below a prefix, by what it is: `version`, `marker` or `upload`, with its key and id.
    pub async fn everything(&self, prefix: &str) -> Vec<(&'static str, String, String)> {
        let mut found = Vec::new();
        for page in self.version_pages(prefix).await {
            let entry = |what, key: Option<&str>, id: Option<&str>| (what, key.unwrap().to_owned(), id.unwrap().to_owned());
            found.extend(page.versions().iter().map(|one| entry("version", one.key(), one.version_id())));
            found.extend(page.delete_markers().iter().map(|one| entry("marker", one.key(), one.version_id())));
        }
        let uploads = self.client.list_multipart_uploads().bucket(&self.name).prefix(prefix).send().await.expect("list uploads");
        found.extend(uploads.uploads().iter().map(|one| ("upload", one.key().unwrap().into(), one.upload_id().unwrap().into())));
        found
    }

    async fn version_pages(&self, prefix: &str) -> Vec<ListObjectVersionsOutput> {
        let (mut pages, mut key, mut id) = (Vec::new(), None, None);
        loop {
            let request = self.client.list_object_versions().bucket(&self.name).prefix(prefix);
            let page = request.set_key_marker(key).set_version_id_marker(id).send().await.expect("list versions");
            (key, id) = (page.next_key_marker.clone(), page.next_version_id_marker.clone());
            let more = page.is_truncated == Some(true);
            pages.push(page);
            if !more {
                return pages;
            }
        }
    }

    /// Every version below a prefix: its key and the digest that the server took of it.
    pub async fn versions(&self, prefix: &str) -> Vec<(String, String)> {
        let pages = self.version_pages(prefix).await;
        let versions = pages.iter().flat_map(|page| page.versions());
        versions.map(|one| (one.key().unwrap().to_owned(), one.e_tag().unwrap().to_owned())).collect()
    }

    /// Only what people put there: the versions' keys below the archive, without its canary and marks.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys: Vec<String> = self.everything(prefix).await.into_iter().map(|(_, key, _)| key).collect();
        keys.retain(|key| !key.contains("/.lethe-"));
        keys.sort();
        keys.dedup();
        keys
    }

    /// Begins an upload of two parts and leaves it, as a writer that is killed does.
    pub async fn leave_upload(&self, key: &str) -> String {
        let begun = self.client.create_multipart_upload().bucket(&self.name).key(key).send().await.expect("begin an upload");
        let upload = begun.upload_id.expect("an id");
        let part = self.client.upload_part().bucket(&self.name).key(key).upload_id(&upload).part_number(1);
        part.body(ByteStream::from(vec![7; 5 << 20])).send().await.expect("upload a part");
        upload
    }

    pub async fn legal_hold(&self, key: &str, on: bool) {
        let status = if on { ObjectLockLegalHoldStatus::On } else { ObjectLockLegalHoldStatus::Off };
        let hold = ObjectLockLegalHold::builder().status(status).build();
        let request = self.client.put_object_legal_hold().bucket(&self.name).key(key).legal_hold(hold);
        request.send().await.expect("set a legal hold");
    }

    async fn remove(client: Client, name: String) {
        for _ in 0..20 {
            let Ok(page) = client.list_object_versions().bucket(&name).send().await else { break };
            let ids = page.versions().iter().map(|one| (one.key(), one.version_id()));
            let ids = ids.chain(page.delete_markers().iter().map(|one| (one.key(), one.version_id())));
            let ids: Vec<_> = ids
                .map(|(key, id)| {
                    ObjectIdentifier::builder().key(key.unwrap()).set_version_id(id.map(str::to_owned)).build().unwrap()
                })
                .collect();
            if ids.is_empty() {
                break;
            }
            let delete = Delete::builder().set_objects(Some(ids)).quiet(true).build().unwrap();
            // What is locked in compliance mode stays until the server is taken down.
            let _ = client.delete_objects().bucket(&name).delete(delete).bypass_governance_retention(true).send().await;
        }
        if let Ok(page) = client.list_multipart_uploads().bucket(&name).send().await {
            for upload in page.uploads() {
                let request = client.abort_multipart_upload().bucket(&name);
                let _ = request.key(upload.key().unwrap()).upload_id(upload.upload_id().unwrap()).send().await;
            }
        }
        let _ = client.delete_bucket().bucket(&name).send().await;
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A test that fails leaves nothing either, so not by its own runtime.
        let removed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(Self::remove(server.client(), name));
        });
        let _ = removed.join();
    }
}
