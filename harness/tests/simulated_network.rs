//! What each fault does to a connection of the simulated network, in figures of virtual time.

use std::time::Duration;

use overlay::client::Client;
use overlay::plan::Query;
use overlay_harness::cluster::{CLIENT, Cluster, ClusterError, ClusterSpec, Driver, fixtures};
use overlay_harness::fault::Fault;
use overlay_harness::topology::TopologyBuilder;
use tokio::time::Instant;

/// Longer than any answer takes where nothing is wrong: a hop takes 3 ms at most.
const UNDISTURBED: Duration = Duration::from_millis(50);

fn simulated<T>(body: impl AsyncFnOnce(&mut dyn Cluster) -> T) -> T {
    let spec = ClusterSpec::of(&TopologyBuilder::teams(&[1]).build(), &fixtures());
    Driver::Simulated { seed: 7 }.run(spec, body).unwrap()
}

/// How long A takes to give its metrics.
async fn answer_time(client: &Client) -> Duration {
    let asked = Instant::now();
    client.metrics().await.unwrap();
    asked.elapsed()
}

#[test]
fn answer_takes_a_few_milliseconds_where_nothing_is_wrong() {
    let took = simulated(async |cluster| answer_time(&cluster.client("A", "").unwrap()).await);
    // Connection, request and answer: four one-way trips of 1 to 3 ms.
    assert!(took >= Duration::from_millis(4) && took < UNDISTURBED, "{took:?}");
}

#[test]
fn partition_holds_what_is_sent_until_it_is_healed() {
    simulated(async |cluster| {
        let client = cluster.client("A", "").unwrap();
        answer_time(&client).await;
        let partition = Fault::partition(CLIENT, "A");
        cluster.inject(&partition).await.unwrap();
        let answered = tokio::time::timeout(Duration::from_secs(3), client.metrics()).await;
        assert!(answered.is_err(), "nothing passes");
        let healing = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            cluster.heal(&partition).await.unwrap();
        };
        let (took, ()) = futures::future::join(answer_time(&client), healing).await;
        assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(2) + UNDISTURBED, "{took:?}");
    });
}

/// Method: an answer is under way for half a second when one of the two directions is cut.
#[test]
fn partition_one_way_holds_what_is_sent_that_way_and_nothing_else() {
    simulated(async |cluster| {
        let client = cluster.client("A", "").unwrap();
        answer_time(&client).await;
        cluster.inject(&Fault::delay(CLIENT, "A", Duration::from_millis(500))).await.unwrap();
        for (partition, is_held) in
            [(Fault::partition_one_way(CLIENT, "A"), false), (Fault::partition_one_way("A", CLIENT), true)]
        {
            let asked = Box::pin(client.metrics());
            let (asked, ()) = match futures::future::select(
                asked,
                Box::pin(tokio::time::sleep(Duration::from_millis(700))),
            )
            .await
            {
                futures::future::Either::Left(_) => panic!("an answer takes a second"),
                futures::future::Either::Right(((), asked)) => (asked, ()),
            };
            cluster.inject(&partition).await.unwrap();
            let answered = tokio::time::timeout(Duration::from_secs(1), asked).await;
            assert_eq!(answered.is_err(), is_held, "{partition}: {answered:?}");
            cluster.heal(&partition).await.unwrap();
        }
    });
}

#[test]
fn delay_is_added_to_each_way() {
    simulated(async |cluster| {
        let client = cluster.client("A", "").unwrap();
        answer_time(&client).await;
        cluster.inject(&Fault::delay(CLIENT, "A", Duration::from_millis(300))).await.unwrap();
        let took = answer_time(&client).await;
        assert!(
            took >= Duration::from_millis(600) && took < Duration::from_millis(600) + UNDISTURBED,
            "{took:?}"
        );
    });
}

/// Every packet but one in a hundred is lost: no answer without several repetitions of at least 200 ms.
#[test]
fn loss_costs_the_time_of_sending_again() {
    simulated(async |cluster| {
        let client = cluster.client("A", "").unwrap();
        answer_time(&client).await;
        let fault = Fault::loss(CLIENT, "A", 80);
        cluster.inject(&fault).await.unwrap();
        let took = answer_time(&client).await;
        assert!(took >= Duration::from_millis(200), "{took:?}");
        cluster.heal(&fault).await.unwrap();
        // What was lost holds up what follows on its connection, so another one is asked.
        let took = answer_time(&cluster.client("A", "").unwrap()).await;
        assert!(took < UNDISTURBED, "{took:?}");
    });
}

#[test]
fn slow_node_sends_at_its_rate() {
    simulated(async |cluster| {
        let client = cluster.client("A", "").unwrap();
        let bytes = client.metrics().await.unwrap().exposition.len();
        cluster.inject(&Fault::slow("A", 1_000)).await.unwrap();
        let took = answer_time(&client).await;
        assert!(took >= Duration::from_millis(bytes as u64), "{bytes} bytes in {took:?}");
        assert!(took < Duration::from_millis(bytes as u64 + 1_000), "{bytes} bytes in {took:?}");
    });
}

#[test]
fn hanging_node_takes_connections_and_nothing_else() {
    simulated(async |cluster| {
        cluster.inject(&Fault::hang("A")).await.unwrap();
        let client = cluster.client("A", "").unwrap();
        let answered = tokio::time::timeout(Duration::from_secs(4), client.metrics()).await;
        assert!(answered.is_err(), "{answered:?}");
        cluster.heal(&Fault::hang("A")).await.unwrap();
        assert!(answer_time(&cluster.client("A", "").unwrap()).await < UNDISTURBED);
    });
}

#[test]
fn crashed_node_refuses_connections_at_once_and_answers_after_its_restart() {
    simulated(async |cluster| {
        let client = cluster.client("A", "").unwrap();
        let before = client.metrics().await.unwrap().incarnation;
        cluster.inject(&Fault::crash("A")).await.unwrap();
        let asked = Instant::now();
        let newcomer = cluster.client("A", "").unwrap();
        let refused = newcomer.metrics().await.unwrap_err().to_string();
        assert!(asked.elapsed() < UNDISTURBED && refused.contains("Unavailable"), "{refused}");
        cluster.heal(&Fault::crash("A")).await.unwrap();
        assert!(client.metrics().await.unwrap().incarnation > before);
    });
}

/// Goal: the request that finds its connection closing is repeated like one that comes later.
/// Method: the next chunk is asked for in the same instant in which the node crashes; it is back half a second later.
#[test]
fn client_resumes_when_its_connection_closes_under_a_request() {
    simulated(async |cluster| {
        let client = cluster.client("A", "reader").unwrap();
        let mut result = client.query(&Query::default()).await.unwrap();
        let before = client.chunk(&result, 1).await.unwrap();
        cluster.crash("A").await.unwrap();
        let coming_back = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            cluster.restart("A").await.unwrap();
        };
        let (again, ()) = futures::future::join(client.chunk_or_resume(&mut result, 1), coming_back).await;
        assert_eq!(again.unwrap().frames, before.frames);
    });
}

#[test]
fn driver_without_a_network_of_its_own_refuses_network_faults() {
    let spec = ClusterSpec::of(&TopologyBuilder::teams(&[1]).build(), &fixtures());
    let refused =
        Driver::InProcess.run(spec, async |cluster| cluster.inject(&Fault::partition("A", "B")).await);
    let error = refused.unwrap().unwrap_err();
    assert!(matches!(error, ClusterError::Unsupported { .. }));
    assert_eq!(
        error.to_string(),
        "the in-process driver cannot offer `network partition A | B`: \
         tasks of one runtime over loopback have no network and no scheduler of their own"
    );
}
