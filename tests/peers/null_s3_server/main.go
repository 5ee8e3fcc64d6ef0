// An S3 server that discards what it is given and remembers how much it was, so that a measurement
// shows what a client costs. It trusts every signature and keeps no byte of any body. It ends when
// its standard input does, and so never outlives the test that started it.
package main

import (
	"crypto/md5"
	"crypto/tls"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"hash"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A part as it was sent last; Requests counts how often.
type part struct {
	Bytes    int64 `json:"bytes"`
	Requests int   `json:"requests"`
}

type upload struct {
	Key   string        `json:"key"`
	State string        `json:"state"` // open, complete or aborted
	Parts map[int]*part `json:"parts"`
	meta  http.Header
}

type object struct {
	Bytes int64  `json:"bytes"`
	ETag  string `json:"etag"`
	meta  http.Header
	at    time.Time
}

type server struct {
	mutex    sync.Mutex
	next     int
	Requests int                `json:"requests"`
	Bytes    int64              `json:"bytes"`
	Uploads  map[string]*upload `json:"uploads"`
	Objects  map[string]*object `json:"objects"`
	CPU      float64            `json:"cpu_seconds"`
}

var buffers = sync.Pool{New: func() any { buffer := make([]byte, 256<<10); return &buffer }}

// small is up to how many bytes an object's MD5 is counted, as every store does.
const small = 1 << 20

// discard reads a body to its end and gives its size, without the framing of aws-chunked, and its
// MD5, if it is a small object sent plainly; else nil.
func discard(r *http.Request) (int64, []byte, error) {
	framed := r.Header.Get("X-Amz-Decoded-Content-Length")
	var sum hash.Hash
	if r.Method == http.MethodPut && framed == "" && 0 <= r.ContentLength && r.ContentLength <= small {
		sum = md5.New()
	}
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	var size int64
	for {
		n, err := r.Body.Read(*buffer)
		size += int64(n)
		if sum != nil {
			sum.Write((*buffer)[:n])
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, nil, err
		}
	}
	if framed != "" {
		decoded, err := strconv.ParseInt(framed, 10, 64)
		return decoded, nil, err
	}
	if sum == nil {
		return size, nil, nil
	}
	return size, sum.Sum(nil), nil
}

func metadata(from http.Header) http.Header {
	meta := http.Header{}
	for name, values := range from {
		if strings.HasPrefix(name, "X-Amz-Meta-") {
			meta[name] = values
		}
	}
	return meta
}

func answer(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprint(w, xml.Header+body)
}

func refuse(w http.ResponseWriter, status int, code string) {
	answer(w, status, "<Error><Code>"+code+"</Code><Message>"+code+"</Message></Error>")
}

func escape(text string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(text))
	return out.String()
}

func partTag(number int, size int64) string { return fmt.Sprintf(`"%016x%016x"`, number, size) }

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	size, sum, err := discard(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, "IncompleteBody")
		return
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if r.URL.Path == "/_count" {
		s.count(w)
		return
	}
	if r.URL.Path == "/_total" {
		s.total(w)
		return
	}
	if r.URL.Path == "/_report" {
		// Stands in for a REST API that takes every report.
		w.WriteHeader(http.StatusCreated)
		return
	}
	s.Requests++
	s.Bytes += size
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	query := r.URL.Query()
	switch {
	case bucket == "":
		answer(w, 200, "<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>")
	case key == "":
		s.ofBucket(w, r, bucket)
	case query.Has("uploads") && r.Method == http.MethodPost:
		s.create(w, r, bucket, key)
	case query.Has("uploadId"):
		s.ofUpload(w, r, bucket, key, size)
	default:
		s.ofObject(w, r, bucket, key, size, sum)
	}
}

func spent() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

func (s *server) count(w http.ResponseWriter) {
	s.CPU = spent()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s)
}

// total is count without the names, which are too many after a measurement with small files.
func (s *server) total(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"requests": s.Requests, "bytes": s.Bytes, "objects": len(s.Objects), "cpu_seconds": spent(),
	})
}

func (s *server) ofBucket(w http.ResponseWriter, r *http.Request, bucket string) {
	query := r.URL.Query()
	switch {
	case r.Method != http.MethodGet:
		w.WriteHeader(http.StatusOK)
	case query.Has("location"):
		answer(w, 200, "<LocationConstraint>us-east-1</LocationConstraint>")
	case query.Has("uploads"):
		answer(w, 200, "<ListMultipartUploadsResult><Bucket>"+escape(bucket)+"</Bucket><IsTruncated>"+
			"false</IsTruncated>"+s.begun(bucket+"/"+query.Get("prefix"))+"</ListMultipartUploadsResult>")
	default:
		answer(w, 200, "<ListBucketResult><Name>"+escape(bucket)+
			"</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>")
	}
}

// begun lists the open uploads of objects whose names, bucket included, begin so.
func (s *server) begun(prefix string) string {
	ids := []string{}
	for id, each := range s.Uploads {
		if each.State == "open" && strings.HasPrefix(each.Key, prefix) {
			ids = append(ids, id)
		}
	}
	sort.Slice(ids, func(a, b int) bool { return s.Uploads[ids[a]].Key < s.Uploads[ids[b]].Key })
	var out strings.Builder
	for _, id := range ids {
		_, key, _ := strings.Cut(s.Uploads[id].Key, "/")
		fmt.Fprintf(&out, "<Upload><Key>%s</Key><UploadId>%s</UploadId></Upload>", escape(key), id)
	}
	return out.String()
}

func (s *server) create(w http.ResponseWriter, r *http.Request, bucket, key string) {
	s.next++
	id := fmt.Sprintf("upload-%d", s.next)
	s.Uploads[id] = &upload{
		Key: bucket + "/" + key, State: "open", Parts: map[int]*part{}, meta: metadata(r.Header),
	}
	answer(w, 200, "<InitiateMultipartUploadResult><Bucket>"+escape(bucket)+"</Bucket><Key>"+
		escape(key)+"</Key><UploadId>"+id+"</UploadId></InitiateMultipartUploadResult>")
}

func (s *server) ofUpload(w http.ResponseWriter, r *http.Request, bucket, key string, size int64) {
	id := r.URL.Query().Get("uploadId")
	found := s.Uploads[id]
	if found == nil || found.State != "open" || found.Key != bucket+"/"+key {
		refuse(w, http.StatusNotFound, "NoSuchUpload")
		return
	}
	switch r.Method {
	case http.MethodPut:
		number, err := strconv.Atoi(r.URL.Query().Get("partNumber"))
		if err != nil || number < 1 || number > 10000 {
			refuse(w, http.StatusBadRequest, "InvalidArgument")
			return
		}
		sent := found.Parts[number]
		if sent == nil {
			sent = &part{}
			found.Parts[number] = sent
		}
		sent.Bytes = size
		sent.Requests++
		w.Header().Set("ETag", partTag(number, size))
	case http.MethodPost:
		if !s.place(w, r, found.Key) {
			return
		}
		done := &object{meta: found.meta, at: time.Now()}
		for _, sent := range found.Parts {
			done.Bytes += sent.Bytes
		}
		done.ETag = fmt.Sprintf(`"%032x-%d"`, s.next, len(found.Parts))
		found.State = "complete"
		s.Objects[found.Key] = done
		answer(w, 200, "<CompleteMultipartUploadResult><Bucket>"+escape(bucket)+"</Bucket><Key>"+
			escape(key)+"</Key><ETag>"+escape(done.ETag)+"</ETag></CompleteMultipartUploadResult>")
	case http.MethodDelete:
		found.State = "aborted"
		w.WriteHeader(http.StatusNoContent)
	default:
		s.listParts(w, r, bucket, key, id, found)
	}
}

func (s *server) listParts(w http.ResponseWriter, r *http.Request, bucket, key, id string, of *upload) {
	after, _ := strconv.Atoi(r.URL.Query().Get("part-number-marker"))
	numbers := []int{}
	for number := range of.Parts {
		if number > after {
			numbers = append(numbers, number)
		}
	}
	sort.Ints(numbers)
	page := numbers[:min(len(numbers), 1000)]
	var out strings.Builder
	for _, number := range page {
		bytes := of.Parts[number].Bytes
		fmt.Fprintf(&out, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag><Size>%d</Size></Part>",
			number, escape(partTag(number, bytes)), bytes)
		after = number
	}
	answer(w, 200, fmt.Sprintf("<ListPartsResult><Bucket>%s</Bucket><Key>%s</Key><UploadId>%s</UploadId>"+
		"<NextPartNumberMarker>%d</NextPartNumberMarker><IsTruncated>%t</IsTruncated>%s</ListPartsResult>",
		escape(bucket), escape(key), id, after, len(page) < len(numbers), out.String()))
}

// place tells whether an object may be written under the name, and refuses where it may not.
func (s *server) place(w http.ResponseWriter, r *http.Request, name string) bool {
	if r.Header.Get("If-None-Match") == "*" && s.Objects[name] != nil {
		refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return false
	}
	return true
}

func (s *server) ofObject(w http.ResponseWriter, r *http.Request, bucket, key string, size int64, sum []byte) {
	name := bucket + "/" + key
	switch r.Method {
	case http.MethodPut:
		if !s.place(w, r, name) {
			return
		}
		// Clients take 32 digits for an MD5, and hold it against what they sent.
		tag := fmt.Sprintf(`"%032x-1"`, size)
		if sum != nil {
			tag = fmt.Sprintf(`"%x"`, sum)
		}
		done := &object{Bytes: size, ETag: tag, meta: metadata(r.Header), at: time.Now()}
		s.Objects[name] = done
		w.Header().Set("ETag", done.ETag)
	case http.MethodDelete:
		delete(s.Objects, name)
		w.WriteHeader(http.StatusNoContent)
	case http.MethodHead:
		found := s.Objects[name]
		if found == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		for header, values := range found.meta {
			w.Header()[header] = values
		}
		w.Header().Set("ETag", found.ETag)
		w.Header().Set("Content-Length", strconv.FormatInt(found.Bytes, 10))
		w.Header().Set("Last-Modified", found.at.UTC().Format(http.TimeFormat))
	default:
		refuse(w, http.StatusNotImplemented, "NotImplemented")
	}
}

func main() {
	address := flag.String("listen", "127.0.0.1:0", "address to listen on")
	certificate := flag.String("cert", "", "PEM file of a certificate: HTTPS")
	key := flag.String("key", "", "PEM file of its key")
	flag.Parse()
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println(listener.Addr())
	service := &http.Server{
		Handler: &server{Uploads: map[string]*upload{}, Objects: map[string]*object{}},
		// This also is how long a connection may wait for its first request, or for its handshake:
		// what is measured opens connections ahead, and then waits for its turn.
		ReadHeaderTimeout: 10 * time.Minute,
		IdleTimeout:       10 * time.Minute,
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	if *certificate != "" {
		log.Fatal(service.ServeTLS(listener, *certificate, *key))
	}
	log.Fatal(service.Serve(listener))
}
