//! The ublk driver's binary interface: the structures, numbers and flags of `linux/ublk_cmd.h`.
//!
//! Only what this crate uses is here, under the kernel's own names without their prefixes.

use std::mem::{offset_of, size_of};

/// Where the driver takes device commands.
pub const CONTROL_PATH: &str = "/dev/ublk-control";

/// `queue_id` of a control command that concerns no queue.
pub const NO_QUEUE: u16 = u16::MAX;
/// `dev_id` of an `ADD_DEV` that leaves the choice to the kernel.
pub const ANY_ID: u32 = u32::MAX;
/// Bytes of one sector, the unit of descriptors and parameters.
pub const SECTOR_SHIFT: u32 = 9;

/// `_IOC` of `asm-generic/ioctl.h` for the driver's letter `u`, as x86, Arm and RISC-V have it.
const fn ioc(direction: u32, nr: u32, size: usize) -> u32 {
    direction << 30 | (size as u32) << 16 | (b'u' as u32) << 8 | nr
}

/// `_IOR('u', nr, …)`: the kernel answers.
const fn ior(nr: u32, size: usize) -> u32 {
    ioc(2, nr, size)
}

/// `_IOWR('u', nr, …)`: the kernel is told, and answers.
const fn iowr(nr: u32, size: usize) -> u32 {
    ioc(3, nr, size)
}

/// `GET_QUEUE_AFFINITY`: the CPUs whose requests go to a queue.
pub const GET_QUEUE_AFFINITY: u32 = ior(0x01, size_of::<CtrlCmd>());
/// `GET_DEV_INFO`: what a device was made with, and its state.
pub const GET_DEV_INFO: u32 = ior(0x02, size_of::<CtrlCmd>());
/// `ADD_DEV`: makes `/dev/ublkcN`.
pub const ADD_DEV: u32 = iowr(0x04, size_of::<CtrlCmd>());
/// `DEL_DEV`: removes `/dev/ublkcN`, waiting until nobody has it open.
pub const DEL_DEV: u32 = iowr(0x05, size_of::<CtrlCmd>());
/// `START_DEV`: makes `/dev/ublkbN`, once every tag of every queue has been fetched.
pub const START_DEV: u32 = iowr(0x06, size_of::<CtrlCmd>());
/// `STOP_DEV`: removes `/dev/ublkbN` and gives back every fetched tag with [`RES_ABORT`].
pub const STOP_DEV: u32 = iowr(0x07, size_of::<CtrlCmd>());
/// `SET_PARAMS`: size, block sizes and limits.
pub const SET_PARAMS: u32 = iowr(0x08, size_of::<CtrlCmd>());
/// `GET_PARAMS`: the same, read back.
pub const GET_PARAMS: u32 = ior(0x09, size_of::<CtrlCmd>());
/// `START_USER_RECOVERY`: makes the queues of a device whose server died ready for another one.
pub const START_USER_RECOVERY: u32 = iowr(0x10, size_of::<CtrlCmd>());
/// `END_USER_RECOVERY`: requests go on, once every tag of every queue has been fetched.
pub const END_USER_RECOVERY: u32 = iowr(0x11, size_of::<CtrlCmd>());
/// `GET_FEATURES`: the `F_…` flags the driver knows (Linux 6.5).
pub const GET_FEATURES: u32 = ior(0x13, size_of::<CtrlCmd>());
/// `DEL_DEV_ASYNC`: `DEL_DEV` without waiting (Linux 6.9).
pub const DEL_DEV_ASYNC: u32 = ior(0x14, size_of::<CtrlCmd>());
/// `TRY_STOP_DEV`: `STOP_DEV` unless somebody has the block device open (see [`F_SAFE_STOP_DEV`]).
pub const TRY_STOP_DEV: u32 = iowr(0x17, size_of::<CtrlCmd>());

/// `FETCH_REQ`: completes when the tag has its first request.
pub const FETCH_REQ: u32 = iowr(0x20, size_of::<IoCmd>());
/// `COMMIT_AND_FETCH_REQ`: ends the tag's request, and completes when it has the next one.
pub const COMMIT_AND_FETCH_REQ: u32 = iowr(0x21, size_of::<IoCmd>());

const _: () = assert!(ADD_DEV == 0xc020_7504 && GET_DEV_INFO == 0x8020_7502);
const _: () = assert!(DEL_DEV_ASYNC == 0x8020_7514 && TRY_STOP_DEV == 0xc020_7517);
const _: () = assert!(FETCH_REQ == 0xc010_7520 && COMMIT_AND_FETCH_REQ == 0xc010_7521);

/// How command numbers are written to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As ioctl numbers: every kernel from 6.4 on, and the only form a kernel may be built with.
    Ioctl,
    /// The bare number: what Linux 6.0 to 6.3 understand.
    Plain,
}

impl Encoding {
    /// The number to put into the ring for `command`, one of the constants above.
    pub const fn number(self, command: u32) -> u32 {
        match self {
            Encoding::Ioctl => command,
            Encoding::Plain => command & 0xff,
        }
    }
}

/// Requests of a server that died stay queued for its successor (Linux 6.1).
pub const F_USER_RECOVERY: u64 = 1 << 3;
/// Requests a dead server had begun are issued again instead of failing (Linux 6.1).
pub const F_USER_RECOVERY_REISSUE: u64 = 1 << 4;
/// Commands are ioctl numbers: [`Encoding::Ioctl`].
pub const F_CMD_IOCTL_ENCODE: u64 = 1 << 6;
/// The server copies data itself, with `pread` and `pwrite` on `/dev/ublkcN` (Linux 6.5).
pub const F_USER_COPY: u64 = 1 << 7;
/// The driver knows [`TRY_STOP_DEV`] (Linux 7.0).
pub const F_SAFE_STOP_DEV: u64 = 1 << 17;

/// `state` of [`DevInfo`]: there is no block device.
pub const S_DEV_DEAD: u16 = 0;
/// `state` of [`DevInfo`]: the block device is being served.
pub const S_DEV_LIVE: u16 = 1;
/// `state` of [`DevInfo`]: the server died, and requests wait for its successor.
pub const S_DEV_QUIESCED: u16 = 2;
/// `state` of [`DevInfo`]: the server died, and requests fail.
pub const S_DEV_FAIL_IO: u16 = 3;

/// Result of a fetched tag that has a request.
pub const RES_OK: i32 = 0;
/// Result of a fetched tag whose device has been stopped.
pub const RES_ABORT: i32 = -libc::ENODEV;

/// A request to read.
pub const OP_READ: u8 = 0;
/// A request to write.
pub const OP_WRITE: u8 = 1;
/// A request to make everything acknowledged durable.
pub const OP_FLUSH: u8 = 2;
/// A request to forget a range.
pub const OP_DISCARD: u8 = 3;
/// A request to make a range read as zeros.
pub const OP_WRITE_ZEROES: u8 = 5;

/// Entries of a queue's descriptor area as it lies in `/dev/ublkcN`, whatever the queue's depth.
pub const MAX_QUEUE_DEPTH: usize = 4096;
/// Where the data of requests begins in `/dev/ublkcN`, for [`F_USER_COPY`].
pub const IO_BUF_OFFSET: u64 = 0x8000_0000;
/// `UBLK_IO_BUF_BITS`: a request holds at most 32 MiB.
pub const IO_BUF_BITS: u32 = 25;
/// `UBLK_TAG_BITS`: width of the tag above the offset in a request's buffer.
pub const TAG_BITS: u32 = 16;

/// Where the data of a request lies in `/dev/ublkcN`, for [`F_USER_COPY`].
pub const fn request_data_offset(queue: u16, tag: u16) -> u64 {
    IO_BUF_OFFSET + ((queue as u64) << (IO_BUF_BITS + TAG_BITS) | (tag as u64) << IO_BUF_BITS)
}

/// `struct ublksrv_ctrl_cmd`: a command to the control device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CtrlCmd {
    /// The device meant.
    pub dev_id: u32,
    /// The queue meant, or [`NO_QUEUE`].
    pub queue_id: u16,
    /// Bytes at `addr`.
    pub len: u16,
    /// Address of the command's argument or answer.
    pub addr: u64,
    /// A small argument.
    pub data: u64,
    /// For unprivileged devices, which we do not make.
    pub dev_path_len: u16,
    /// Zero.
    pub pad: u16,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<CtrlCmd>() == 32);
const _: () = assert!(offset_of!(CtrlCmd, addr) == 8 && offset_of!(CtrlCmd, data) == 16);

/// `struct ublksrv_ctrl_dev_info`: what a device is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct DevInfo {
    /// Queues; the kernel lowers it to the number of CPUs.
    pub nr_hw_queues: u16,
    /// Tags of a queue.
    pub queue_depth: u16,
    /// One of `S_DEV_…`.
    pub state: u16,
    /// Zero.
    pub pad0: u16,
    /// Bytes of the largest read or write.
    pub max_io_buf_bytes: u32,
    /// N of `/dev/ublkbN`.
    pub dev_id: u32,
    /// The process that serves it, -1 when none does.
    pub ublksrv_pid: i32,
    /// Zero.
    pub pad1: u32,
    /// `F_…` in force.
    pub flags: u64,
    /// For the server's own use; the driver keeps it.
    pub ublksrv_flags: u64,
    /// User who made the device.
    pub owner_uid: u32,
    /// Group of the user who made the device.
    pub owner_gid: u32,
    /// Zero.
    pub reserved: [u64; 2],
}

const _: () = assert!(size_of::<DevInfo>() == 64);
const _: () = assert!(offset_of!(DevInfo, ublksrv_pid) == 16 && offset_of!(DevInfo, flags) == 24);

/// Bit of [`Params::types`]: `basic` is given.
pub const PARAM_TYPE_BASIC: u32 = 1 << 0;
/// Bit of [`Params::types`]: `discard` is given.
pub const PARAM_TYPE_DISCARD: u32 = 1 << 1;
/// Bit of [`Params::types`]: `devt` is given, by the kernel only.
pub const PARAM_TYPE_DEVT: u32 = 1 << 2;

/// `struct ublk_param_basic`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct BasicParams {
    /// Read-only 1, rotational 2, volatile cache 4, FUA 8. A RAM disk is none of them.
    pub attrs: u32,
    /// Logarithm of the logical block size.
    pub logical_bs_shift: u8,
    /// Logarithm of the physical block size.
    pub physical_bs_shift: u8,
    /// Logarithm of the preferred request size.
    pub io_opt_shift: u8,
    /// Logarithm of the smallest request without penalty.
    pub io_min_shift: u8,
    /// Sectors of the largest read or write.
    pub max_sectors: u32,
    /// Sectors that a request may not cross, 0 for none.
    pub chunk_sectors: u32,
    /// Sectors of the device.
    pub dev_sectors: u64,
    /// Addresses a request's memory may not cross, 0 for none.
    pub virt_boundary_mask: u64,
}

/// `struct ublk_param_discard`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct DiscardParams {
    /// Bytes.
    pub discard_alignment: u32,
    /// Bytes.
    pub discard_granularity: u32,
    /// Sectors.
    pub max_discard_sectors: u32,
    /// Sectors.
    pub max_write_zeroes_sectors: u32,
    /// Ranges of a request; the driver takes one only.
    pub max_discard_segments: u16,
    /// Zero.
    pub reserved: u16,
}

/// `struct ublk_param_devt`: device numbers, known once the device has been started.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct DevtParams {
    /// Major number of `/dev/ublkcN`.
    pub char_major: u32,
    /// Minor number of `/dev/ublkcN`.
    pub char_minor: u32,
    /// Major number of `/dev/ublkbN`.
    pub disk_major: u32,
    /// Minor number of `/dev/ublkbN`.
    pub disk_minor: u32,
}

/// The head of `struct ublk_params`. The kernel's own is longer; it goes by `len`, and ignores
/// whatever `types` does not name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Params {
    /// Bytes of this structure.
    pub len: u32,
    /// `PARAM_TYPE_…`.
    pub types: u32,
    /// Size and block sizes.
    pub basic: BasicParams,
    /// Discard and write-zeroes.
    pub discard: DiscardParams,
    /// Device numbers.
    pub devt: DevtParams,
}

const _: () = assert!(size_of::<Params>() == 80 && size_of::<BasicParams>() == 32);
const _: () = assert!(offset_of!(Params, basic) == 8 && offset_of!(BasicParams, dev_sectors) == 16);
const _: () = assert!(offset_of!(Params, discard) == 40 && offset_of!(Params, devt) == 60);

/// `struct ublksrv_io_desc`: a request, in the memory mapped from `/dev/ublkcN`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct IoDesc {
    /// `OP_…` in the low byte, flags above.
    pub op_flags: u32,
    /// Length.
    pub nr_sectors: u32,
    /// Place.
    pub start_sector: u64,
    /// The tag's buffer, as it was given with the fetch.
    pub addr: u64,
}

const _: () = assert!(size_of::<IoDesc>() == 24 && offset_of!(IoDesc, start_sector) == 8);

/// `struct ublksrv_io_cmd`: a command about one tag, carried inside a ring entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct IoCmd {
    /// The queue.
    pub q_id: u16,
    /// The tag.
    pub tag: u16,
    /// Bytes done or a negative error number, for [`COMMIT_AND_FETCH_REQ`].
    pub result: i32,
    /// The tag's buffer; zero under [`F_USER_COPY`].
    pub addr: u64,
}

const _: () = assert!(size_of::<IoCmd>() == 16 && offset_of!(IoCmd, addr) == 8);

impl IoCmd {
    /// The bytes as they lie in the ring entry.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0..2].copy_from_slice(&self.q_id.to_ne_bytes());
        bytes[2..4].copy_from_slice(&self.tag.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.result.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.addr.to_ne_bytes());
        bytes
    }
}

impl CtrlCmd {
    /// The bytes as they lie in the 128-byte ring entry.
    pub fn to_bytes(self) -> [u8; 80] {
        let mut bytes = [0; 80];
        bytes[0..4].copy_from_slice(&self.dev_id.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.queue_id.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.len.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.addr.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.data.to_ne_bytes());
        bytes[24..26].copy_from_slice(&self.dev_path_len.to_ne_bytes());
        bytes[26..28].copy_from_slice(&self.pad.to_ne_bytes());
        bytes[28..32].copy_from_slice(&self.reserved.to_ne_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_form_is_the_bare_number() {
        assert_eq!(Encoding::Plain.number(STOP_DEV), 0x07);
        assert_eq!(Encoding::Plain.number(COMMIT_AND_FETCH_REQ), 0x21);
        assert_eq!(Encoding::Ioctl.number(STOP_DEV), 0xc020_7507);
    }

    #[test]
    fn request_data_lies_where_the_driver_looks() {
        assert_eq!(request_data_offset(0, 0), 0x8000_0000);
        assert_eq!(
            request_data_offset(3, 5),
            0x8000_0000 + (3 << 41) + (5 << 25)
        );
    }
}
