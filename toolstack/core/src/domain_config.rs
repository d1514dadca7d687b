//! What a saved domain's configuration says of it.

use serde::{Deserialize, Serialize};

use crate::text::one_line;

/// Longest text that is taken out of a configuration, in characters.
const MOST_TEXT: usize = 256;

/// The few fields of libxl's `libxl_domain_config` that tell which domain it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Config {
    /// The domain's name.
    pub name: Option<String>,
    /// `pv`, `pvh` or `hvm`.
    #[serde(rename = "type")]
    pub guest_type: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
    /// Memory it may have, in KiB.
    pub max_memory_kib: Option<u64>,
    /// Its vCPUs.
    pub max_vcpus: Option<u64>,
}

/// The fields, where libxl's JSON has them. Others are passed over without being kept.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Json {
    c_info: CreateInfo,
    b_info: BuildInfo,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CreateInfo {
    name: Option<String>,
    #[serde(rename = "type")]
    guest_type: Option<String>,
    uuid: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BuildInfo {
    max_memkb: Option<u64>,
    max_vcpus: Option<u64>,
}

impl Config {
    /// Reads libxl's JSON. The error says what is wrong with it, in one line.
    pub fn parse(json: &str) -> Result<Self, String> {
        let Json { c_info, b_info } =
            serde_json::from_str(json).map_err(|error| one_line(&error.to_string()))?;
        let text = |text: Option<String>| {
            text.map(|text| one_line(&text).chars().take(MOST_TEXT).collect())
        };
        Ok(Self {
            name: text(c_info.name),
            guest_type: text(c_info.guest_type),
            uuid: text(c_info.uuid),
            max_memory_kib: b_info.max_memkb,
            max_vcpus: b_info.max_vcpus,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_is_told() {
        let config = Config::parse(
            r#"{"c_info":{"type":"pvh","name":"a\u001bb","other":[1]},"disks":[{}]}"#,
        )
        .unwrap();
        let wanted = Config {
            name: Some("a b".into()),
            guest_type: Some("pvh".into()),
            ..Config::default()
        };
        assert_eq!(config, wanted);
        assert!(
            Config::parse("[1]").is_err() && Config::parse(r#"{"c_info":{"name":3}}"#).is_err()
        );
    }
}
