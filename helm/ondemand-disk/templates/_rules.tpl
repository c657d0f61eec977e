{{/* What the operator may do in each namespace that it looks after. */}}
{{- define "ondemand-disk.operatorRules" -}}
# Follow pools and disks; put their finalizer and the pool's label on, and take the finalizer off again.
- apiGroups: [ondemanddisk.dev]
  resources: [diskpools, ondemanddisks]
  verbs: [get, list, watch, patch]
# Say in status how they are.
- apiGroups: [ondemanddisk.dev]
  resources: [diskpools/status, ondemanddisks/status]
  verbs: [patch]
# Own what belongs to them: API servers with OwnerReferencesPermissionEnforcement ask for this to set
# blockOwnerDeletion.
- apiGroups: [ondemanddisk.dev]
  resources: [diskpools/finalizers, ondemanddisks/finalizers]
  verbs: [update]
# A pool's server: StatefulSet, Service, the agent's account, the disk's manifest for its Job.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts, configmaps]
  verbs: [get, list, watch, create, patch, delete]
# A pool's volume: made from claimTemplate, grown with it, deleted only when it is empty.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
# The Job that makes a disk, and its clean-up.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# Why a pool's server or a Job does not run: the state of its pods.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Whether a namespace is being deleted: its disks' finalizers must go then.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
# Keep others than clients away from a pool's server, and its eviction in order.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Give the agent of a pool its role, which is the one below and no other.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [rolebindings]
  verbs: [get, list, watch, create, patch, delete]
# Tell users what happens.
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}
