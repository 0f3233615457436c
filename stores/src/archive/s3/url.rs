//! The URL of an S3 archive in one form: `s3://BUCKET/PREFIX`, without a slash at its end.
//!
//! The rule: two spellings of one place are one URL, and what could mean another place is refused. Nothing here touches the world.

use lethe_stages::ports::PortError;

/// A bucket and the prefix of an archive in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::archive) struct Root {
    pub(super) bucket: String,
    /// Empty, or ends in a slash.
    pub(super) prefix: String,
}

impl Root {
    /// Reads a URL.
    pub(in crate::archive) fn parse(url: &str) -> Result<Self, PortError> {
        let refused = |why: &str| Err(PortError::Permanent(format!("archive URL `{url}`: {why}; write s3://BUCKET/PREFIX")));
        let Some(rest) = url.strip_prefix("s3://") else { return refused("it does not begin with s3://") };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let of_bucket = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !(3..=63).contains(&bucket.len())
            || !bucket.chars().all(of_bucket)
            || !edge(bucket.chars().next())
            || !edge(bucket.chars().last())
        {
            return refused("its bucket is no bucket's name (3 to 63 lower-case letters, digits, `-` and `.`)");
        }
        if prefix.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, '?' | '#' | '%' | '\\')) {
            return refused("its prefix holds a blank, or one of ? # % \\");
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if !prefix.is_empty() && prefix.split('/').any(|component| matches!(component, "" | "." | "..")) {
            return refused("its prefix has an empty, `.` or `..` component");
        }
        // A key has at most 1,024 bytes; what Lethe puts below the prefix takes less than 200.
        if prefix.len() > 800 {
            return refused("its prefix is longer than 800 bytes");
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { bucket: bucket.to_owned(), prefix })
    }

    /// The canonical URL.
    pub(in crate::archive) fn url(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix).trim_end_matches('/').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_place_has_one_url() {
        for (url, canonical) in [
            ("s3://cold", "s3://cold"),
            ("s3://cold/", "s3://cold"),
            ("s3://cold/a/b/", "s3://cold/a/b"),
            ("s3://cold.storage-1/a b".replace(' ', "_").as_str(), "s3://cold.storage-1/a_b"),
        ] {
            assert_eq!(Root::parse(url).unwrap().url(), canonical, "{url}");
        }
        assert_eq!(Root::parse("s3://cold/a").unwrap().prefix, "a/");
        assert_eq!(Root::parse("s3://cold").unwrap().prefix, "");
    }

    #[test]
    fn what_names_no_place_is_refused_with_what_would_be_right() {
        for url in [
            "s3:/cold",
            "s3://",
            "s3://Co",
            "s3://COLD/a",
            "s3://-cold/a",
            "s3://cold//a",
            "s3://cold/../b",
            "s3://cold/a?b=1",
            "s3://cold/a b",
            "s3://key:secret@cold/a",
        ] {
            let error = Root::parse(url).unwrap_err().to_string();
            assert!(error.contains("s3://BUCKET/PREFIX"), "{url}: {error}");
        }
    }
}
