//! Certificates for connections with TLS.

use super::address::Query;

/// The parameters of an address that name files.
pub(super) const PARAMETERS: [&str; 3] = ["ca_file", "certificate_file", "key_file"];

/// The certificates of an address with `rediss`, from files that its query names.
#[derive(Clone, Default)]
pub(super) struct Tls {
    #[cfg(feature = "redis-tls")]
    pub(super) certificates: Option<bb8_redis::redis::TlsCertificates>,
}

impl Tls {
    /// `ca_file`: whom to trust, in place of the system's certificates. `certificate_file`, `key_file`: who this is.
    #[cfg(feature = "redis-tls")]
    pub(super) fn of(query: &mut Query, is_wanted: bool) -> Result<Self, String> {
        use bb8_redis::redis::{ClientTlsConfig, TlsCertificates};
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

        let is_certificate =
            |text: &[u8]| CertificateDer::pem_slice_iter(text).next().is_some_and(|first| first.is_ok());
        let is_key = |text: &[u8]| PrivateKeyDer::from_pem_slice(text).is_ok();
        let mut file = |name: &str, is_one: &dyn Fn(&[u8]) -> bool| {
            let Some(path) = query.take(name) else { return Ok(None) };
            match std::fs::read(&path) {
                Ok(text) if is_one(&text) => Ok(Some(text)),
                Ok(_) => Err(format!("{name}: {path}: nothing of its kind in PEM is in it")),
                Err(error) => Err(format!("{name}: {path}: {error}")),
            }
        };
        let root_cert = file("ca_file", &is_certificate)?;
        let (certificate, key) = (file("certificate_file", &is_certificate)?, file("key_file", &is_key)?);
        let client_tls = match (certificate, key) {
            (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
            (None, None) => None,
            _ => return Err("`certificate_file` and `key_file` belong together".into()),
        };
        if !is_wanted {
            return match (root_cert, client_tls) {
                (None, None) => Ok(Self::default()),
                _ => Err("certificates need `rediss` in place of `redis`".into()),
            };
        }
        // The application may have chosen another provider, and then it is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self { certificates: Some(TlsCertificates { client_tls, root_cert }) })
    }

    #[cfg(not(feature = "redis-tls"))]
    pub(super) fn of(_: &mut Query, is_wanted: bool) -> Result<Self, String> {
        if is_wanted { Err("TLS needs the crate's feature `redis-tls`".into()) } else { Ok(Self::default()) }
    }
}
