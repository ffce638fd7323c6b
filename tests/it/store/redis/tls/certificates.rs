//! Certificates of one test, made with the program `openssl`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use redis::{ClientTlsConfig, TlsCertificates};

use crate::common::fresh_key;

/// The text of a file that is no certificate.
pub(super) const NO_PEM: &str = "secret-of-a-file";

/// `ca.crt` is who certifies the others, and `other.crt` certifies nobody. `server.crt` and `client.crt` have keys. The
/// server's name is `127.0.0.1`, and `localhost` is not.
pub(in crate::store::redis) struct Certificates {
    folder: PathBuf,
}

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/// What a certificate says of a server, which is a client of other servers.
const EXTENSIONS: &str = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";

fn openssl(folder: &Path, start: &[&str], rest: &[&str]) {
    let made = Command::new("openssl").args(start).args(rest).current_dir(folder).output().expect("openssl runs");
    assert!(made.status.success(), "{start:?}: {}", String::from_utf8_lossy(&made.stderr));
}

fn authority(folder: &Path, name: &str) {
    let rest = [
        "-keyout",
        &format!("{name}.key"),
        "-out",
        &format!("{name}.crt"),
        "-days",
        "2",
        "-subj",
        &format!("/CN=authority {name}"),
    ];
    openssl(folder, &["req", "-x509"], &[&KEY[..], &rest].concat());
}

fn certified(folder: &Path, name: &str) {
    let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
    let rest = ["-keyout", &key, "-out", &request, "-subj", &format!("/CN={name}")];
    openssl(folder, &["req", "-new"], &[&KEY[..], &rest].concat());
    let authority = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"];
    let files = ["-in", &request, "-out", &certificate, "-extfile", "extensions"];
    openssl(folder, &["x509", "-req"], &[&authority[..], &files].concat());
}

impl Certificates {
    /// `None`: there is no `openssl`.
    pub(super) fn make() -> Option<Self> {
        Command::new("openssl").arg("version").output().ok()?;
        let folder = env::temp_dir().join(format!("certificates-{}", fresh_key()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("extensions"), EXTENSIONS).expect("a file");
        fs::write(folder.join("no-pem.txt"), NO_PEM).expect("a file");
        authority(&folder, "ca");
        authority(&folder, "other");
        certified(&folder, "server");
        certified(&folder, "client");
        Some(Self { folder })
    }

    pub(super) fn path(&self, file: &str) -> String {
        self.folder.join(file).to_str().expect("a path in UTF-8").to_owned()
    }

    /// Copies `ca.crt`, and returns the path of the copy.
    pub(super) fn copied_as(&self, file: &str) -> String {
        let path = self.path(file);
        fs::copy(self.path("ca.crt"), &path).expect("a copy");
        path
    }

    /// The parameters of a location.
    pub(in crate::store::redis) fn query(&self) -> String {
        let [ca, certificate, key] = ["ca.crt", "client.crt", "client.key"].map(|file| self.path(file));
        format!("?ca_file={ca}&certificate_file={certificate}&key_file={key}")
    }

    /// The arguments of a server, which wants certificates of its clients.
    pub(in crate::store::redis) fn arguments(&self) -> Vec<String> {
        let [ca, certificate, key] = ["ca.crt", "server.crt", "server.key"].map(|file| self.path(file));
        let arguments = [
            "--tls-auth-clients",
            "yes",
            "--tls-ca-cert-file",
            &ca,
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-replication",
            "yes",
        ];
        arguments.map(str::to_owned).to_vec()
    }

    /// The certificates of a client.
    pub(in crate::store::redis) fn of_a_client(&self) -> TlsCertificates {
        let read = |file: &str| fs::read(self.path(file)).expect("a file");
        TlsCertificates {
            client_tls: Some(ClientTlsConfig { client_cert: read("client.crt"), client_key: read("client.key") }),
            root_cert: Some(read("ca.crt")),
        }
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
