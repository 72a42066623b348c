//! What is kept of a machine until the next time: what takes time to measure, and stays as it is.

use serde::Deserialize;
use serde::Serialize;

use crate::base::Error;
use crate::base::Result;
use crate::plan::facts::Disk;
use crate::plan::facts::Rates;
use crate::plan::machine::MachineIdentity;
use crate::plan::measured::Measured;
use crate::plan::measured::Percent;

/// What a file that holds it says first.
pub const SCHEMA: &str = "bigsmall.profile/1";
/// The disks that were measured last, at most so many.
const DISKS_MAX: usize = 16;

/// What was measured of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Of which.
    pub machine: MachineIdentity,
    /// When the rates were measured, in seconds since 1970.
    pub measured_at: u64,
    /// Which share of their time the threads had meanwhile.
    pub processor_share: Measured<Percent>,
    /// How fast it computes.
    pub rates: Rates,
    /// Its disks.
    pub disks: Disks,
}

/// Disks, the one that was measured last at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Disks(Vec<KeptDisk>);

/// What was measured of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptDisk {
    /// When, in seconds since 1970.
    pub measured_at: u64,
    /// What.
    #[serde(flatten)]
    pub disk: Disk,
}

/// As it lies in a file.
#[derive(Serialize, Deserialize)]
struct Page<K> {
    schema: String,
    #[serde(flatten)]
    kept: K,
}

impl Kept {
    /// Reads what is kept. None if it is damaged, of another machine, or of a time to come: then
    /// it is as if nothing were kept.
    pub fn read(text: &[u8], machine: &MachineIdentity, now: u64) -> Option<Self> {
        let page: Page<Self> = serde_json::from_slice(text).ok()?;
        let kept = page.kept;
        let disks = &kept.disks.0;
        let is_past = |time: u64| time <= now;
        let is_sound = page.schema == SCHEMA
            && kept.machine == *machine
            && kept.rates.are_with(machine.threads)
            && kept.rates.is_whole()
            && is_past(kept.measured_at)
            && disks.len() <= DISKS_MAX
            && disks.iter().all(|disk| is_past(disk.measured_at));
        is_sound.then_some(kept)
    }

    /// As text, of which [`Kept::read`] makes the same.
    pub fn text(&self) -> Result<Vec<u8>> {
        let page = Page {
            schema: SCHEMA.to_owned(),
            kept: self,
        };
        serde_json::to_vec_pretty(&page)
            .map_err(|e| Error::invalid(format!("it cannot be written as JSON: {e}")))
    }
}

impl Disks {
    /// What is known of a disk.
    pub fn find(&self, disk: &Disk) -> Option<&KeptDisk> {
        self.0.iter().find(|kept| kept.disk.is_same(disk))
    }

    /// Keeps what was measured of a disk, in the place of what was known of it before. Where
    /// nothing was measured, nothing is kept.
    pub fn keep(&mut self, disk: KeptDisk) {
        if disk.disk.read.value().is_none() || !disk.disk.is_same(&disk.disk) {
            return;
        }
        self.0.retain(|kept| !kept.disk.is_same(&disk.disk));
        self.0.push(disk);
        let too_many = self.0.len().saturating_sub(DISKS_MAX);
        self.0.drain(..too_many);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::facts::ByThreads;
    use crate::plan::facts::WithThreads;
    use crate::plan::machine;
    use crate::plan::measured::BytesPerSecond;
    use crate::plan::measured::FlopPerSecond;
    use crate::plan::measured::Name;
    use crate::plan::measured::Quantity;

    const NOW: u64 = 1_700_000_000;

    fn with<T: Quantity + Clone>(counts: &[usize], rate: &T) -> ByThreads<T> {
        let one = |&threads| WithThreads {
            threads,
            rate: Measured::Value(rate.clone()),
        };
        ByThreads(counts.iter().map(one).collect())
    }

    fn disk(number: usize) -> KeptDisk {
        KeptDisk {
            measured_at: NOW - 5,
            disk: Disk {
                device: Measured::Value(Name(format!("8:{number}"))),
                file_system: Measured::Value(Name("ext4".to_owned())),
                read_by: Measured::Value(Name("direct".to_owned())),
                read: Measured::Value(BytesPerSecond(1_900_000_000)),
            },
        }
    }

    fn kept() -> Kept {
        let bytes = with(&[1, 4], &BytesPerSecond(7));
        let flop = with(&[1, 4], &FlopPerSecond(9));
        Kept {
            machine: machine::tests::identity(),
            measured_at: NOW - 10,
            processor_share: Measured::Value(Percent(97)),
            rates: Rates {
                memory_read: with(&[1, 2, 4], &BytesPerSecond(8)),
                decode_r16: bytes.clone(),
                decode_r32: bytes.clone(),
                gemv_bf16: bytes.clone(),
                gemv_r16: bytes.clone(),
                gemv_r32: bytes.clone(),
                gemv_packed: bytes,
                gemm_bf16_8: flop.clone(),
                gemm_bf16_64: flop,
            },
            disks: Disks(vec![disk(1)]),
        }
    }

    fn read(kept: &Kept) -> Option<Kept> {
        Kept::read(&kept.text().unwrap(), &machine::tests::identity(), NOW)
    }

    #[test]
    fn what_is_kept_comes_back() {
        assert_eq!(read(&kept()), Some(kept()));
    }

    #[test]
    fn what_is_damaged_or_cut_is_as_if_it_were_not_there() {
        let text = kept().text().unwrap();
        for len in 0..text.len() {
            assert_eq!(
                Kept::read(&text[..len], &kept().machine, NOW),
                None,
                "{len}"
            );
        }
        // a bit of anything: another value, or nothing, but never a fault
        for at in 0..text.len() {
            let mut other = text.clone();
            other[at] ^= 1;
            let _ = Kept::read(&other, &kept().machine, NOW);
        }
        let text = String::from_utf8(text).unwrap();
        let other = text.replace("profile/1", "profile/2");
        assert_eq!(Kept::read(other.as_bytes(), &kept().machine, NOW), None);
        let other = text.replace("bytes_per_second", "bits_per_second");
        assert_eq!(Kept::read(other.as_bytes(), &kept().machine, NOW), None);
    }

    #[test]
    fn what_is_of_another_machine_or_time_or_not_whole_is_not_used() {
        let other = |change: fn(&mut Kept)| {
            let mut kept = kept();
            change(&mut kept);
            read(&kept)
        };
        assert!(other(|kept| kept.disks.0.clear()).is_some());
        let changes: [fn(&mut Kept); 6] = [
            |kept| kept.machine.cores = 64,
            |kept| kept.machine.version = "2.0".to_owned(),
            |kept| kept.measured_at = NOW + 1,
            |kept| kept.disks.0[0].measured_at = NOW + 1,
            |kept| kept.rates.decode_r16 = ByThreads::not(&[1, 4], "tired"),
            |kept| kept.rates.memory_read.0.truncate(2),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert_eq!(other(change), None, "{number}");
        }
    }

    #[test]
    fn of_each_disk_the_last_figure_is_kept_and_of_many_disks_the_last_ones() {
        let mut kept = kept();
        let newer = KeptDisk {
            measured_at: NOW,
            ..disk(1)
        };
        kept.disks.keep(newer.clone());
        assert_eq!(kept.disks.0, std::slice::from_ref(&newer));
        assert_eq!(kept.disks.find(&disk(1).disk), Some(&newer));
        assert_eq!(kept.disks.find(&disk(2).disk), None);
        let mut failed = disk(2);
        failed.disk.read = Measured::not("unplugged");
        kept.disks.keep(failed);
        let mut unknown = disk(2);
        unknown.disk.device = Measured::not("nobody says");
        kept.disks.keep(unknown);
        assert_eq!(kept.disks.0.len(), 1);
        for number in 0..100 {
            kept.disks.keep(disk(number));
        }
        assert_eq!(kept.disks.0.len(), DISKS_MAX);
        assert_eq!(kept.disks.0[DISKS_MAX - 1], disk(99));
        assert!(read(&kept).is_some());
    }
}
