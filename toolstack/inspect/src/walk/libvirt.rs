//! The header of libvirt's save file, and the domain's XML behind it.

use std::io::Read;

use migrate_stream::libvirt::{Header, LibvirtError, MAX_XML, xml};
use migrate_stream::reader::Place;

use super::{CannotContinue, Sink, StreamWalker};
use crate::finding::Problem;
use rxl_core::domain_config::DomainSummary;
use rxl_core::text::one_line;

/// Longest text that is taken out of the XML, in characters.
const MOST_TEXT: usize = 256;

impl<R: Read, S: Sink> StreamWalker<'_, R, S> {
    pub(super) fn libvirt(&mut self) -> Result<(), CannotContinue> {
        let at = self.here(Place::LibvirtHeader);
        let bytes = self.array(at)?;
        let length = match Header::parse(&bytes) {
            Ok(header) => header.xml_len,
            // The length tells where the stream begins, also when it is over the limit.
            Err(LibvirtError::TooLong(length)) => {
                self.find(at, Problem::Libvirt(LibvirtError::TooLong(length)));
                length
            }
            Err(error) => return Err(self.stop(at, Problem::Libvirt(error))),
        };
        let at = self.here(Place::LibvirtXml);
        if length > MAX_XML {
            return self.skip(at, length.into());
        }
        self.collect(at, length)?;
        let body = std::mem::take(&mut self.body);
        match xml(&body) {
            Ok(xml) => self.sink.config(&summary(xml)),
            Err(error) => self.find(at, Problem::Libvirt(error)),
        }
        self.body = body;
        Ok(())
    }
}

/// The few elements that tell which domain it is. libvirt writes them first, each on a line of its
/// own (domain_conf.c: virDomainDefFormatInternalSetRootName).
fn summary(xml: &str) -> DomainSummary {
    let text = |name: &str| {
        let (_, rest) = xml.split_once(&format!("<{name}>"))?;
        let (text, _) = rest.split_once(&format!("</{name}>"))?;
        let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
        let text = text.replace("&apos;", "'").replace("&amp;", "&");
        Some(one_line(&text).chars().take(MOST_TEXT).collect())
    };
    DomainSummary { name: text("name"), uuid: text("uuid"), ..DomainSummary::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_named() {
        let xml = "<domain type='xen'>\n  <name>a&amp;b</name>\n  <uuid>1-2</uuid>\n</domain>\n";
        let found = summary(xml);
        assert_eq!((found.name.as_deref(), found.uuid.as_deref()), (Some("a&b"), Some("1-2")));
        assert_eq!(summary("<name>"), DomainSummary::default());
    }
}
