//! TLS to Postgres through the URL, TLS and SASL to Kafka through `[kafka.properties]`; nothing untrusted is used.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use outbox_relay::servers::KafkaOptions;
use outbox_relay::servers::kafka::RELAY_USER;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::support::{Env, Kafka};

/// A certificate authority, and a server's certificate for 127.0.0.1 that it signed.
struct Certificates {
    authority: String,
    certificate: String,
    key: String,
}

fn certificates() -> Certificates {
    let mut authority = CertificateParams::new([]).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // With one name for both, OpenSSL takes the server's certificate for a self-signed one.
    authority.distinguished_name.push(DnType::CommonName, "authority of the tests");
    let authority =
        CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(["127.0.0.1".to_owned()]).expect("parameters");
    let server = server.signed_by(&key, &authority).expect("a certificate");
    Certificates { authority: authority.pem(), certificate: server.pem(), key: key.serialize_pem() }
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).expect("write a file");
    path
}

/// Switches TLS on in a running server; the files must belong to the user it runs as.
async fn switch_tls_on(env: &Env, certificates: &Certificates) {
    let data = env.postgres.server.data_directory();
    let owner = fs::metadata(&data).expect("the data directory");
    for (name, text) in [("server.crt", &certificates.certificate), ("server.key", &certificates.key)] {
        let path = write(&data, name, text);
        chown(&path, Some(owner.uid()), Some(owner.gid())).expect("hand the file over");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("hide the file");
    }
    env.execute("alter system set ssl = on").await;
    env.execute("select pg_reload_conf()").await;
    env.eventually_true("select current_setting('ssl') = 'on'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_spoken_to_over_tls_when_the_url_says_so() {
    let env = Env::with_own_postgres().await;
    let (ours, foreign) = (certificates(), certificates());
    let directory = tempfile::tempdir().expect("a directory");
    switch_tls_on(&env, &ours).await;
    let url = |authority: &Path| {
        format!("{}?sslmode=verify-full&sslrootcert={}", env.relay_url(), authority.display())
    };

    let wrong = write(directory.path(), "foreign.pem", &foreign.authority);
    let suspicious = env.relay().await.env("DATABASE_URL", url(&wrong)).start().await;
    let line = suspicious.wait_for_log("cannot lead yet, trying again").await;
    assert!(line.text.contains("certificate"), "{}", line.text);
    drop(suspicious);

    let right = write(directory.path(), "authority.pem", &ours.authority);
    let relay = env.relay().await.env("DATABASE_URL", url(&right)).start().await;
    relay.wait_for_log("leading").await;
    env.eventually_true(
        "select count(*) > 2 and bool_and(s.ssl) from pg_stat_activity a join pg_stat_ssl s using (pid)
          where a.application_name like 'outbox-relay/%'",
    )
    .await;
    assert!(relay.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_spoken_to_over_tls_and_sasl_as_its_properties_say() {
    let certificates = certificates();
    let jars = Kafka::options().jars;
    let one_line = |pem: &str| pem.trim().replace('\n', "\\n");
    let properties = [
        (
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_SSL,CONTROLLER:PLAINTEXT".to_owned(),
        ),
        ("ssl.keystore.type", "PEM".to_owned()),
        ("ssl.keystore.certificate.chain", one_line(&certificates.certificate)),
        ("ssl.keystore.key", one_line(&certificates.key)),
    ];
    let env = Env::builder()
        .kafka(KafkaOptions {
            restricted_listener: true,
            properties: properties.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            ..KafkaOptions::new(jars)
        })
        .start()
        .await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let directory = tempfile::tempdir().expect("a directory");
    let authority = write(directory.path(), "authority.pem", &certificates.authority);

    let relay = env.restricted_relay().await;
    let relay = relay
        .property("security.protocol", "sasl_ssl")
        .property("ssl.ca.location", authority.display())
        .property("compression.type", "zstd")
        .start()
        .await;
    env.execute(&format!("select outbox.publish('{topic}', 'k', 'hello')")).await;
    env.expect_records(&topic, 1).await;
    assert!(relay.terminate().await.success());

    let relay = env.restricted_relay().await;
    let impostor = relay
        .property("security.protocol", "sasl_ssl")
        .property("ssl.ca.location", authority.display())
        .property("sasl.username", RELAY_USER)
        .property("sasl.password", "wrong")
        .start()
        .await;
    let line = impostor
        .wait_for_line("the refused login", crate::support::DEADLINE, |line| {
            line.message() == Some("kafka reports an error") && line.text.contains("authentication")
        })
        .await;
    assert!(!line.text.contains("wrong"), "{}", line.text);
}
