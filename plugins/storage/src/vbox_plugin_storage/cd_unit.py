"""The logical unit of a CD drive: its medium, what has to be told about it, and the packets that
answer with data the drive has itself.  Whatever reads the medium is the driver's (`atapi_cd`).

Reference: MMC-6 (T10 1836-D), SPC-4 (T10 1731-D).

Traps
- A unit attention is reported once, by the first command that is not INQUIRY, GET CONFIGURATION, GET
  EVENT STATUS NOTIFICATION or REQUEST SENSE (which returns it as its data); what that command wanted
  is not done.
- Sense data is kept until the next command, and REQUEST SENSE itself ends well.
- A medium that is swapped at once is reported as new, not as gone.
- A medium that is gone has not changed: NOT READY tells it, no attention.
"""

from __future__ import annotations

from collections.abc import Callable

from vbox_pdm import MediaBelow, MediaInfo, mmc, scsi
from vbox_pdm.mmc import BLOCK, Layout, Profile
from vbox_pdm.scsi import Op, Sense, SenseKey
from vbox_plugin_storage import cd_answers
from vbox_plugin_storage.cd_answers import Event

READS = frozenset((Op.READ_10, Op.READ_12, Op.READ_CD, Op.READ_CD_MSF))
"""Packets that the driver carries out on the medium."""
STANDBY, ACTIVE = 0x00, 0xFF
"""Power modes, as CHECK POWER MODE tells them."""
_IGNORE_ATTENTION = frozenset((Op.INQUIRY, Op.GET_CONFIGURATION, Op.GET_EVENT_STATUS, Op.REQUEST_SENSE))
_UNKNOWN_FORMAT = Sense(SenseKey.MEDIUM_ERROR, 0x30, 0x01)


class Refused(Exception):
    """A packet ends with CHECK CONDITION."""

    def __init__(self, sense: Sense) -> None:
        self.sense = sense


class CdUnit:
    """State of the unit.  `tray` is where locks and ejections go."""

    def __init__(self, names: cd_answers.Inquiry, tray: MediaBelow) -> None:
        self.names = names
        self._tray = tray
        self.info: MediaInfo | None = None
        self.blocks = 0
        """Whole blocks of the medium."""
        self.locked = False
        self.handlers = self._packet_table()
        """Operation code to what answers it: data, or nothing; raises Refused."""
        self.power_on()

    # --- resets

    def power_on(self) -> None:
        """Everything as at power on; the medium stays."""
        self.forget_command()
        self.attentions: list[Sense] = [scsi.RESET_OCCURRED]
        self.event = Event.NEW_MEDIA if self.info is not None else Event.NONE
        self.tray_open = False
        self.unlock()
        self.recovery = cd_answers.DEFAULT_RECOVERY
        self.power, self.sleeping = ACTIVE, False

    def reset(self, keep_settings: bool) -> None:
        """A software or device reset."""
        self.forget_command()
        if self.sleeping:
            self.sleeping, self.power = False, STANDBY
        if not keep_settings:
            self.recovery = cd_answers.DEFAULT_RECOVERY
        self.unlock()
        self.attentions = [each for each in self.attentions if each != scsi.RESET_OCCURRED]
        self.attentions.insert(0, scsi.RESET_OCCURRED)

    def forget_command(self) -> None:
        """No sense data."""
        self.sense: Sense = scsi.NO_SENSE
        self.information: int | None = None
        self.parameters = b""
        """What MODE SELECT brought."""

    def unlock(self) -> None:
        """The medium may be taken out again."""
        if self.locked:
            self.locked = False
            self._tray.media_lock(False)

    # --- the medium

    def set_medium(self, info: MediaInfo | None) -> None:
        """What is in the drive, without telling anybody."""
        self.info = info
        self.blocks = info.size // BLOCK if info is not None else 0

    def change_medium(self, info: MediaInfo | None) -> bool:
        """People put a medium in, or took it out; whether that is news."""
        news = self.info is not None or info is not None
        if info is None and news:
            self.event = Event.REMOVAL
        self.set_medium(info)
        self.tray_open = False
        self.attentions = [each for each in self.attentions if each != scsi.MEDIUM_MAY_HAVE_CHANGED]
        if info is not None:
            self.event = Event.NEW_MEDIA
            self.attentions.append(scsi.MEDIUM_MAY_HAVE_CHANGED)
        return news

    @property
    def profile(self) -> Profile:
        """What kind of disc there is."""
        if not self.blocks:
            return Profile.NONE
        return Profile.DVD_ROM if self.blocks > mmc.LAST_MSF else Profile.CD_ROM

    def need_medium(self) -> None:
        if self.info is None:
            raise Refused(scsi.NO_MEDIUM_TRAY_OPEN if self.tray_open else scsi.NO_MEDIUM)
        if not self.blocks:
            raise Refused(_UNKNOWN_FORMAT)

    # --- packets in general

    def begin(self, cdb: bytes) -> None:
        """A new packet: attentions come first, and whether there is such a command.  Refused."""
        self.parameters = b""
        if cdb[0] != Op.REQUEST_SENSE:
            self.sense, self.information = scsi.NO_SENSE, None
        if cdb[0] not in _IGNORE_ATTENTION and self.attentions:
            raise Refused(self.attentions.pop(0))
        if cdb[0] not in self.handlers:
            raise Refused(scsi.INVALID_OPCODE)

    def _packet_table(self) -> dict[int, Callable[[bytes], bytes | None]]:
        return {
            Op.TEST_UNIT_READY: self._test_unit_ready, Op.REQUEST_SENSE: self._request_sense,
            Op.INQUIRY: self._inquiry, Op.START_STOP_UNIT: self._start_stop,
            Op.MODE_SENSE_6: self._mode_sense, Op.MODE_SENSE_10: self._mode_sense,
            Op.MODE_SELECT_6: self._mode_select, Op.MODE_SELECT_10: self._mode_select,
            Op.PREVENT_ALLOW: self._prevent_allow, Op.READ_CAPACITY_10: self._read_capacity,
            Op.READ_10: self._no_data, Op.READ_12: self._no_data,
            Op.READ_CD: self._no_data, Op.READ_CD_MSF: self._no_data,
            Op.SEEK_10: self._seek, Op.READ_TOC: self._read_toc,
            Op.READ_DISC_INFORMATION: self._disc_information,
            Op.READ_TRACK_INFORMATION: self._track_information,
            Op.GET_CONFIGURATION: self._get_configuration, Op.GET_EVENT_STATUS: self._event_status,
            Op.MECHANISM_STATUS: self._mechanism_status, Op.READ_DVD_STRUCTURE: self._dvd_structure,
            Op.SET_CD_SPEED: self._no_data, Op.READ_SUB_CHANNEL: self._read_sub_channel,
            **dict.fromkeys((Op.PLAY_AUDIO_10, Op.PLAY_AUDIO_12, Op.PLAY_AUDIO_MSF, Op.SCAN), self._play),
            Op.PAUSE_RESUME: self._pause_resume, Op.STOP_PLAY: self._stop_play,
        }  # fmt: skip

    def read_range(self, cdb: bytes) -> tuple[int, int, Layout]:
        """(first block, number of blocks, what of each) of a read; Refused."""
        self.need_medium()
        layout = Layout(0, BLOCK)
        if cdb[0] in (Op.READ_CD, Op.READ_CD_MSF):
            if cdb[0] == Op.READ_CD:
                first, count = scsi.field(cdb, 2, 4), scsi.field(cdb, 6, 3)
            else:
                first, end = mmc.lba_of_msf(*cdb[3:6]), mmc.lba_of_msf(*cdb[6:9])
                count = end - first
            chosen = mmc.layout(cdb[9])
            if cdb[10] & 7 or chosen is None or count < 0:
                raise Refused(scsi.INVALID_FIELD_IN_CDB)
            layout = chosen
            if cdb[1] >> 2 & 7 not in (0, 2):
                raise Refused(scsi.ILLEGAL_MODE_FOR_TRACK)
        else:
            them = scsi.blocks(cdb)
            assert them is not None
            first, count = them
        if first < 0 or first + count > self.blocks or (first >= self.blocks and count):
            raise Refused(scsi.OUT_OF_RANGE)
        return first, count, layout

    # --- packets about the drive

    def _no_data(self, cdb: bytes) -> None:
        return None

    def _test_unit_ready(self, cdb: bytes) -> None:
        self.need_medium()

    def _request_sense(self, cdb: bytes) -> bytes:
        sense, information = self.sense, self.information
        if sense == scsi.NO_SENSE and self.attentions:
            sense = self.attentions.pop(0)
        self.sense, self.information = scsi.NO_SENSE, None
        return scsi.fixed_sense(sense, information)

    def _inquiry(self, cdb: bytes) -> bytes:
        if cdb[1] & 1:
            data = cd_answers.vital_product_data(self.names, cdb[2])
            if data is None:
                raise Refused(scsi.INVALID_FIELD_IN_CDB)
            return data
        if cdb[2]:
            raise Refused(scsi.INVALID_FIELD_IN_CDB)
        return cd_answers.inquiry(self.names)

    def _mode_sense(self, cdb: bytes) -> bytes:
        control, page = cdb[2] >> 6, cdb[2] & 0x3F
        if control == 3:
            raise Refused(scsi.SAVING_NOT_SUPPORTED)
        recovery = cd_answers.DEFAULT_RECOVERY if control == 2 else self.recovery
        pages = cd_answers.mode_pages(recovery, self.locked)
        if control == 1:
            pages = {
                code: data[:2] + cd_answers.CHANGEABLE.get(code, bytes(len(data)))[2:]
                for code, data in pages.items()
            }
        chosen = pages if page == 0x3F else {page: pages[page]} if page in pages else None
        if chosen is None or cdb[3] not in (0, 0xFF):
            raise Refused(scsi.INVALID_FIELD_IN_CDB)
        body = b"".join(chosen.values())
        medium = cd_answers.medium_type(self.info is not None, self.tray_open)
        return cd_answers.mode_header(cdb[0] == Op.MODE_SENSE_10, medium, len(body)) + body

    def _mode_select(self, cdb: bytes) -> None:
        data, wide = self.parameters, cdb[0] == Op.MODE_SELECT_10
        if cdb[1] & 1:
            raise Refused(scsi.INVALID_FIELD_IN_CDB)
        if not data:
            return
        header = 8 if wide else 4
        if len(data) < header:
            raise Refused(scsi.PARAMETER_LIST_LENGTH)
        descriptors = scsi.field(data, 6, 2) if wide else data[3]
        at, recovery = header + descriptors, self.recovery
        if at > len(data):
            raise Refused(scsi.PARAMETER_LIST_LENGTH)
        pages = cd_answers.mode_pages(self.recovery, self.locked)
        while at < len(data):
            code = data[at] & 0x3F
            current = pages.get(code)
            if current is None:
                raise Refused(scsi.INVALID_FIELD_IN_PARAMETERS)
            page = data[at : at + len(current)]
            if len(page) < len(current):
                raise Refused(scsi.PARAMETER_LIST_LENGTH)
            mask = cd_answers.CHANGEABLE.get(code, bytes(len(current)))
            fixed = ((a ^ b) & ~m & 0xFF for a, b, m in zip(page[1:], current[1:], mask[1:], strict=True))
            if any(fixed):
                raise Refused(scsi.INVALID_FIELD_IN_PARAMETERS)
            if code == cd_answers.ERROR_RECOVERY:
                recovery = (page[2], page[3])
            at += len(current)
        self.recovery = recovery

    def _start_stop(self, cdb: bytes) -> None:
        start, load_eject, power = cdb[4] & 1, cdb[4] & 2, cdb[4] >> 4
        if power:
            if power not in (1, 2, 3, 5):
                raise Refused(scsi.INVALID_FIELD_IN_CDB)
            self.power = ACTIVE if power in (1, 2) else STANDBY
            self.sleeping = power == 5
        elif load_eject and not start:
            self._eject()
        elif load_eject:
            self.tray_open = False
            self.need_medium()
        elif start:
            self.need_medium()

    def _eject(self) -> None:
        if self.locked:
            raise Refused(scsi.REMOVAL_PREVENTED)
        if self.info is not None:
            self._tray.media_eject()
            self.set_medium(None)
            self.event = Event.REMOVAL
            self.attentions = [each for each in self.attentions if each != scsi.MEDIUM_MAY_HAVE_CHANGED]
        self.tray_open = True

    def _prevent_allow(self, cdb: bytes) -> None:
        self.locked = bool(cdb[4] & 1)
        self._tray.media_lock(self.locked)

    def _get_configuration(self, cdb: bytes) -> bytes:
        kind = cdb[1] & 3
        if kind == 3:
            raise Refused(scsi.INVALID_FIELD_IN_CDB)
        profile = self.profile
        return mmc.configuration(cd_answers.features(profile), profile, kind, scsi.field(cdb, 2, 2))

    def _event_status(self, cdb: bytes) -> bytes:
        if not cdb[1] & 1:  # only by polling
            raise Refused(scsi.INVALID_FIELD_IN_CDB)
        data, told = cd_answers.event_status(cdb[4], self.event, self.info is not None, self.tray_open)
        if told and scsi.field(cdb, 7, 2) > 4:
            self.event = Event.NONE
        return data

    def _mechanism_status(self, cdb: bytes) -> bytes:
        return cd_answers.mechanism_status(self.tray_open)

    # --- packets about the disc

    def _read_capacity(self, cdb: bytes) -> bytes:
        self.need_medium()
        return (self.blocks - 1).to_bytes(4, "big") + BLOCK.to_bytes(4, "big")

    def _seek(self, cdb: bytes) -> None:
        self.need_medium()
        if scsi.field(cdb, 2, 4) >= self.blocks:
            raise Refused(scsi.OUT_OF_RANGE)

    def _read_toc(self, cdb: bytes) -> bytes:
        self.need_medium()
        as_msf = bool(cdb[1] & 2)
        form = cdb[2] & 0x0F or cdb[9] >> 6  # the latter as SFF-8020i had it
        if form == 0:
            data = mmc.toc(self.blocks, as_msf, cdb[6])
        elif form == 1:
            data = mmc.sessions(as_msf)
        elif form == 2:
            data = mmc.full_toc(self.blocks) if cdb[6] <= 1 else None
        else:
            data = None
        if data is None:
            raise Refused(scsi.INVALID_FIELD_IN_CDB)
        return data

    def _disc_information(self, cdb: bytes) -> bytes:
        self.need_medium()
        if cdb[1] & 7:
            raise Refused(scsi.INVALID_FIELD_IN_CDB)
        return cd_answers.disc_information()

    def _track_information(self, cdb: bytes) -> bytes:
        self.need_medium()
        kind, number = cdb[1] & 3, scsi.field(cdb, 2, 4)
        known = number < self.blocks if kind == 0 else number == 1 and kind != 3
        if not known:
            raise Refused(scsi.INVALID_FIELD_IN_CDB if kind else scsi.OUT_OF_RANGE)
        return cd_answers.track_information(self.blocks)

    def _dvd_structure(self, cdb: bytes) -> bytes:
        self.need_medium()
        if cdb[7] != 0xFF and self.profile is not Profile.DVD_ROM:
            raise Refused(scsi.INCOMPATIBLE_MEDIUM)
        data = cd_answers.dvd_structure(cdb[7], self.blocks) if not cdb[6] else None
        if data is None:
            raise Refused(scsi.INVALID_FIELD_IN_CDB)
        return data

    def _read_sub_channel(self, cdb: bytes) -> bytes:
        self.need_medium()
        data = cd_answers.sub_channel(cdb[3], bool(cdb[2] & 0x40), bool(cdb[1] & 2))
        if data is None:
            raise Refused(scsi.INVALID_FIELD_IN_CDB)
        return data

    def _play(self, cdb: bytes) -> None:
        self.need_medium()
        if cdb[0] in (Op.PLAY_AUDIO_10, Op.PLAY_AUDIO_12):
            size = 2 if cdb[0] == Op.PLAY_AUDIO_10 else 4
            if not scsi.field(cdb, 7 if size == 2 else 6, size):
                return  # nothing to play is no error
        raise Refused(scsi.ILLEGAL_MODE_FOR_TRACK)

    def _pause_resume(self, cdb: bytes) -> None:
        self.need_medium()
        raise Refused(scsi.COMMAND_SEQUENCE_ERROR)

    def _stop_play(self, cdb: bytes) -> None:
        self.need_medium()
