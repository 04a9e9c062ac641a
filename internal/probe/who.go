package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"github.com/flannel-ng/flannel-ng/internal/nl"
)

// theKernel is who changes what no program asked for.
const theKernel = "the kernel"

// maxNumber is the largest number of a process (PID_MAX_LIMIT), and the number
// of bits it takes.
const (
	maxNumber  = 1<<22 - 1
	numberBits = 22
)

// who names the requester of a change, as well as it is known. A netlink port is
// the number of the process, where libraries and the kernel do as usual; a
// process in a container is counted otherwise, so this is for people, and
// nothing depends on it.
func who(e nl.Event) string {
	var by string
	switch {
	case e.Port != 0:
		by = process(e.Port)
	case e.Subject == nl.SubjectLink, e.Subject == nl.SubjectFDB:
		return "" // the kernel never tells
	default:
		by = theKernel
	}
	if name := protocolName(e.Route.Protocol); e.Subject == nl.SubjectRoute && name != "" {
		by += ", protocol " + name
	}
	return by
}

// process names the process that has a netlink port.
func process(port uint32) string {
	number := int(port)
	switch {
	case port <= maxNumber:
	case port < 1<<31: // a further socket, as libnl numbers them
		number &= maxNumber
	default: // chosen by the kernel
		number = ownerOf(port)
		if number == 0 {
			return fmt.Sprintf("a process with netlink port %d", port)
		}
	}
	return describe(number, nameOf(number))
}

func describe(number int, name string) string {
	if name == "" {
		return fmt.Sprintf("process %d, gone", number)
	}
	return fmt.Sprintf("%s (process %d)", name, number)
}

// nameOf reads the name of a process; "" if it has ended.
func nameOf(number int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", number))
	if err != nil {
		return ""
	}
	return printable(string(raw))
}

// printable is a name without what a terminal might obey, of 15 letters at most
// (TASK_COMM_LEN): any program may choose its own.
func printable(name string) string {
	name = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(name, ""))
	name = strings.TrimSpace(name)
	return name[:min(len(name), 15)]
}

// ownerOf looks for the process with a netlink port that the kernel chose; 0:
// not found. It reads the descriptors of all processes, so it is for changes
// that matter only.
func ownerOf(port uint32) int {
	inode := inodeOf(port)
	if inode == "" {
		return 0
	}
	want := "socket:[" + inode + "]"
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == want {
			n, _ := strconv.Atoi(strings.Split(fd, "/")[2])
			return n
		}
	}
	return 0
}

// inodeOf finds the socket of rtnetlink (family 0) with that port.
func inodeOf(port uint32) string {
	raw, err := os.ReadFile("/proc/thread-self/net/netlink")
	if err != nil {
		return ""
	}
	const family, number, inode, columns = 1, 2, 9, 10
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) == columns && f[family] == "0" && f[number] == strconv.FormatUint(uint64(port), 10) {
			return f[inode]
		}
	}
	return ""
}

// protocolName says by what sort of program a route was made (rt_protos of
// iproute2); "" if that says nothing more.
func protocolName(protocol uint8) string {
	switch protocol {
	case 1:
		return "redirect"
	case 4:
		return "static"
	case 9:
		return "ra"
	case 11:
		return "zebra"
	case 12:
		return "bird"
	case 15:
		return "ntk"
	case 16:
		return "dhcp"
	case 17:
		return "mrouted"
	case 18:
		return "keepalived"
	case 42:
		return "babel"
	case 186:
		return "bgp"
	case 187:
		return "isis"
	case 188:
		return "ospf"
	case 189:
		return "rip"
	case 192:
		return "eigrp"
	default:
		return ""
	}
}
